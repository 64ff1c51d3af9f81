"""Finite scalar quantization (FSQ, arXiv 2309.15505): a codebook that is a grid and needs no learning."""

from __future__ import annotations

import math
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.codecs.quantize.base import Quantizer
from tokenry.tokens.errors import InputError

_EPS = 1e-3
_LISTED = 2**20
"""Codes that a codebook lists; longer ones would be gigabytes that nobody looks at."""


class FiniteScalarQuantizer(Quantizer):
    """Finite scalar quantizer: each number is squeezed into L levels and rounded (FSQ, arXiv 2309.15505).

    ``round(tanh(z + shift) * half - off)`` with ``half = (L - 1) (1 + 1e-3) / 2``; for even L, ``off = 1/2`` and
    ``shift = atanh(off / half)``, so that 0 stays in the middle of a level; else both are 0. Values are levels divided
    by L // 2, from -1 up. A code's id counts the first number fastest: levels (3, 4) have ids 0 to 11, and
    (z0, z1) = (0.3, -1) becomes levels (0, -1) and id 4.

    Args:
        levels: L of each number; their product is the size of the codebook.
    """

    def __init__(self, levels: tuple[int, ...] | list[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2 or math.prod(levels) >= 2**63:
            raise InputError(
                f"Levels are 2 or more for each number and their product is below 2^63; got {list(levels)}."
            )
        self.levels = tuple(levels)
        self.dim, self.sizes = len(self.levels), (math.prod(self.levels),)

    def project(self, z: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Squeeze numbers into the range of their levels; a level is 1 / (L // 2) wide."""
        levels = torch.tensor(self.levels, device=z.device, dtype=z.dtype)
        half = (levels - 1) * (1 + _EPS) / 2
        off = (1 - levels % 2) / 2
        return (torch.tanh(z + torch.atanh(off / half)) * half - off) / (levels // 2)

    def nearest(self, u: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """Round to levels, and count them through."""
        radius, place = self._radix(u.device)
        digits = (u * radius).round().long() + radius
        return (digits * place).sum(-1, keepdim=True)

    def decode(self, ids: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The levels, divided by L // 2; 0 for padding (-1)."""
        radius, _ = self._radix(ids.device)
        return ((self.digits(ids) - radius).float() / radius).masked_fill(ids < 0, 0)

    def digits(self, ids: Int[Tensor, "b n 1"]) -> Int[Tensor, "b n d"]:
        """The level of each number, counted from 0; 0 for padding (-1)."""
        _, place = self._radix(ids.device)
        levels = torch.tensor(self.levels, device=ids.device)
        return ids.clamp(min=0) // place % levels

    def codebook(self) -> Float[Tensor, "k d"] | None:
        """Every point of the grid; None if there are more than 2^20."""
        (size,) = self.sizes
        return self.decode(torch.arange(size)[None, :, None])[0] if size <= _LISTED else None

    def _radix(self, device: torch.device) -> tuple[Int[Tensor, " d"], Int[Tensor, " d"]]:
        """L // 2 of each number, and what a step of it counts in an id."""
        places = [1, *accumulate(self.levels, mul)][:-1]
        return torch.tensor([n // 2 for n in self.levels], device=device), torch.tensor(places, device=device)

    def extra_repr(self) -> str:
        """Levels, for `print`."""
        return f"levels={self.levels}"
