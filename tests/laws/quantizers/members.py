"""The quantizers that the laws hold to: small ones of every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tokenry.codecs.quantize import FiniteScalarQuantizer, Quantizer, VectorQuantizer


def _spread_out(quantizer: VectorQuantizer) -> VectorQuantizer:
    """A codebook as wide as the vectors of the tests, not the narrow one that training starts with."""
    with torch.no_grad():
        quantizer.weight.normal_(generator=torch.Generator().manual_seed(0))
    return quantizer


MEMBERS: dict[str, Callable[[], Quantizer]] = {
    "vq": lambda: _spread_out(VectorQuantizer(17, 3)),
    "vq-averaged": lambda: _spread_out(VectorQuantizer(17, 3, decay=0.9)),
    "fsq-odd": lambda: FiniteScalarQuantizer((3, 5, 7)),
    "fsq-even": lambda: FiniteScalarQuantizer((8, 6, 5)),
}
