"""Parallel Prompt Decoding (arXiv 2405.18628): trained prompt tokens guess in the pass that verifies."""

from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding

__all__ = ["ParallelPromptDecoding", "PromptTokens"]
