"""Lexinvariant language models (arXiv 2305.16349): every sequence draws its tokens' vectors anew."""

from tokenry.models.language.lexinvariant.model import LexinvariantConfig, LexinvariantForCausalLM

__all__ = ["LexinvariantConfig", "LexinvariantForCausalLM"]
