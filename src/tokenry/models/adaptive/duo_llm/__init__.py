"""Duo-LLM (arXiv 2410.10846): a big and a small feed-forward layer in every block; each token takes one of them."""

from tokenry.models.adaptive.duo_llm.model import DuoConfig, DuoForCausalLM, convert
from tokenry.models.adaptive.duo_llm.routing import Choice

__all__ = ["Choice", "DuoConfig", "DuoForCausalLM", "convert"]
