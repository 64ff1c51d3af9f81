"""Holding a model at a rate - of deletion, of exits, of anything it is paid for - while it trains."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenry.tokens.errors import InputError

__all__ = ["PIController"]


class PIController(nn.Module):
    """A proportional-integral controller of a loss weight (as in MrT5, arXiv 2410.20771).

    With the error ``e = target - rate``: ``p = 0.9 p + 0.1 kp e``, ``i = i + ki e``, ``alpha = max(0, p + i)``. Its
    state is kept in buffers, so it is saved with what it steers.

    Args:
        kp: proportional gain. 0.5 in the paper's code.
        ki: integral gain. 1e-5 in the code (an example there calls 5e-5 by that name).
        smoothing: of the proportional term.
    """

    p: Tensor
    i: Tensor

    def __init__(self, kp: float = 0.5, ki: float = 1e-5, smoothing: float = 0.9) -> None:
        super().__init__()
        if kp < 0 or ki < 0 or not 0 <= smoothing < 1:
            raise InputError(
                f"Gains must not be negative and smoothing in [0, 1); got {kp}, {ki}, {smoothing}."
            )
        self.kp, self.ki, self.smoothing = kp, ki, smoothing
        self.register_buffer("p", torch.zeros((), dtype=torch.float64))
        self.register_buffer("i", torch.zeros((), dtype=torch.float64))

    @property
    def alpha(self) -> Float[Tensor, ""]:
        """The weight as it stands."""
        return (self.p + self.i).clamp(min=0)

    @torch.no_grad()
    def step(self, target: float, current: float | Tensor) -> Float[Tensor, ""]:
        """Take note of the rate just measured, and return the weight for the next step."""
        error = target - current
        self.p.mul_(self.smoothing).add_((1 - self.smoothing) * self.kp * error)
        self.i.add_(self.ki * error)
        return self.alpha
