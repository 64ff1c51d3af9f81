"""Parallel Prompt Decoding (arXiv 2405.18628): trained prompt tokens guess in the pass that verifies."""

from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding
from tokenry.tokens.moved import former_names

__all__ = ["ParallelPromptDecoding", "PromptTokens"]

__getattr__ = former_names(__name__)
