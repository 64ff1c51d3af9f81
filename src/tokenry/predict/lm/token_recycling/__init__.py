"""Token Recycling: draft trees from the candidates that decoding throws away (arXiv 2408.08696)."""

from tokenry.predict.lm.token_recycling.proposer import TokenRecycling
from tokenry.predict.lm.token_recycling.warm_up import usual_successors
from tokenry.predict.lm.token_recycling.with_lookup import RecyclingWithLookup
from tokenry.tokens.moved import former_names

__all__ = ["RecyclingWithLookup", "TokenRecycling", "usual_successors"]

__getattr__ = former_names(__name__)
