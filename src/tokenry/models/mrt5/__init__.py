"""MrT5 (arXiv 2410.20771): a byte-level encoder-decoder that deletes bytes inside its encoder."""

from tokenry.models.mrt5.blocks import MrT5Config
from tokenry.models.mrt5.model import MrT5ForConditionalGeneration, MrT5Output
from tokenry.tokens.moved import former_names

__all__ = ["MrT5Config", "MrT5ForConditionalGeneration", "MrT5Output"]

__getattr__ = former_names(__name__)
