"""Pooling: from the vectors of a sequence's tokens to one vector, padding left out."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

Pooling = Literal["mean", "cls"]
"""Mean over a sequence's tokens, or its first token."""


def mean_pool(
    x: Float[Tensor, "b n *d"], mask: Bool[Tensor, "b n"] | Int[Tensor, "b n"]
) -> Float[Tensor, "b *d"]:
    """The mean over each row's real tokens; 0 where there is none.

    Args:
        x: in the type of which the mean is computed; what padding holds, NaN too, counts for nothing.
        mask: False or 0 at padding.
    """
    real = mask.bool().reshape(*mask.shape, *(1 for _ in x.shape[2:]))
    return x.masked_fill(~real, 0).sum(1) / real.sum(1).clamp(min=1)


def pool(x: Float[Tensor, "b n d"], mask: Int[Tensor, "b n"], pooling: Pooling) -> Float[Tensor, "b d"]:
    """One vector a row: that of its first token, or the mean over its tokens."""
    return x[:, 0] if pooling == "cls" else mean_pool(x, mask)
