"""FLASH (arXiv 2505.12728): drafts for vision-language models from their own hidden states."""

from tokenry.predict.lm.flash.drafter import ChainDrafter, FlashConfig, FlashDrafter, load_drafter
from tokenry.predict.lm.flash.proposer import ChainDrafts, Flash
from tokenry.tokens.moved import former_names

__all__ = ["ChainDrafter", "ChainDrafts", "Flash", "FlashConfig", "FlashDrafter", "load_drafter"]

__getattr__ = former_names(__name__)
