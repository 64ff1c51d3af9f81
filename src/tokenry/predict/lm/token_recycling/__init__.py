"""Token Recycling: draft trees from the candidates that decoding throws away (arXiv 2408.08696)."""

from tokenry.predict.lm.token_recycling.proposer import TokenRecycling
from tokenry.predict.lm.token_recycling.warm_up import usual_successors
from tokenry.predict.lm.token_recycling.with_lookup import RecyclingWithLookup

__all__ = ["RecyclingWithLookup", "TokenRecycling", "usual_successors"]
