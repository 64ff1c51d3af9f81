"""MrT5 (arXiv 2410.20771): a byte-level encoder-decoder that deletes bytes inside its encoder."""

from tokenry.models.mrt5.blocks import MrT5Config
from tokenry.models.mrt5.model import MrT5ForConditionalGeneration, MrT5Output

__all__ = ["MrT5Config", "MrT5ForConditionalGeneration", "MrT5Output"]
