"""Decisions about tokens in full precision, also where a model runs under autocast (as `Trainer(bf16=True)` has it)."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """While open, float32 stays float32: autocast would compute the scores of tokens in half precision.

    Args:
        like: a tensor of the device in question.
    """
    return torch.autocast(like.device.type, enabled=False)
