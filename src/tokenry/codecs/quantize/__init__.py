"""Vectors to codes and back: the bottleneck of a codec with discrete tokens.

Names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.codecs.quantize.base import Quantized as Quantized
    from tokenry.codecs.quantize.base import Quantizer as Quantizer
    from tokenry.codecs.quantize.base import code_stats as code_stats
    from tokenry.codecs.quantize.fsq import FiniteScalarQuantizer as FiniteScalarQuantizer
    from tokenry.codecs.quantize.vq import VectorQuantizer as VectorQuantizer

__getattr__, __dir__, __all__ = face(__name__)
