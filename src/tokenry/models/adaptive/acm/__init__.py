"""Adaptive Computation Modules (arXiv 2312.10193): a layer split into learners; a token runs as many as it needs."""

from tokenry.models.adaptive.acm.conversion import Converted, convert, load_converted
from tokenry.models.adaptive.acm.layer import ACM, AcmConfig

__all__ = ["ACM", "AcmConfig", "Converted", "convert", "load_converted"]
