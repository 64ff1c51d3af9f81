"""Methods that know what no method may know: the questions of a batch, and where their answers lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.bench.reproduce.vqa.question_sets import Round
from tokenry.reduce import Reducer
from tokenry.reduce.base import WEIGHTS
from tokenry.tokens import InputError, TokenView


@dataclass(frozen=True, kw_only=True)
class Informed(Reducer):
    """Base of bounds and measurements that are told the questions before each batch.

    Attributes:
        asked: the batch; `told` makes a copy that knows it. It is no part of the configuration.
    """

    asked: Round | None = field(default=None, compare=False, repr=False, metadata={WEIGHTS: True})

    def told(self, asked: Round) -> Self:
        """This method, knowing the questions of a batch."""
        return replace(self, asked=asked)

    @property
    def round(self) -> Round:
        """The questions of the batch under way.

        Raises:
            InputError: it has not been told.
        """
        if self.asked is None:
            raise InputError(
                f"{self.slug} has to know the questions of the batch: use a copy that was `told` them."
            )
        return self.asked

    def cover(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The share of each token's patch that the regions of its question cover; 0 for padding."""
        known = torch.from_numpy(self.round.cover).to(view.features.device, torch.float32)
        return known[view.row].gather(1, view.source.clamp(min=0)).masked_fill(view.source < 0, 0)


def told(methods: Sequence[Reducer], asked: Round) -> tuple[Reducer, ...]:
    """A chain of methods whose members know the questions of a batch, as far as they want to."""
    return tuple(m.told(asked) if isinstance(m, Informed) else m for m in methods)
