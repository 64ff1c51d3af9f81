"""Attention masks as numbers to be added to logits: the one form that every attention kernel of transformers reads.

Eager attention adds whatever mask it is given, a boolean one as 0 and 1; sdpa takes both.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def additive(visible: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """What a query sees as 0, and the rest as the smallest number of a type, which the softmax takes to zero.

    Args:
        visible: what is seen, in any shape; attention functions take [b heads queries keys].
        dtype: of the model's logits. Not minus infinity: a row that sees nothing would not be a number.
    """
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )


def visible(mask: Tensor) -> Bool[Tensor, "*shape"]:
    """What a mask of either form lets a query see."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
