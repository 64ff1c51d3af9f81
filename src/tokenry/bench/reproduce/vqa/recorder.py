"""Recorders: methods that keep every token and note figures of those that reach them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from tokenry.reduce import Reducer
from tokenry.tokens import BudgetLike, Reduction, TokenView


@dataclass(frozen=True, kw_only=True)
class TokenRecorder(Reducer):
    """Base of methods that keep all tokens and note a figure per item, where they stand in a chain of methods.

    Attributes:
        log: (name of the figure, its values for the items of a batch), in order. The only state among the reducers:
            a recorder belongs to one run of one experiment.
    """

    budget: BudgetLike = 1.0
    log: list[tuple[str, Float[Tensor, "items ..."]]] = field(default_factory=list, compare=False, repr=False)

    @abstractmethod
    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """The figures of the items, by name."""

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Read, and keep everything."""
        self.log.extend((name, values.cpu()) for name, values in self.read(view).items())
        return Reduction.identity(view.length, view.features.shape[1])

    def to_json(self) -> dict[str, Any]:
        """The configuration, without what was noted."""
        return {name: value for name, value in super().to_json().items() if name != "log"}


def recorders(methods: Sequence[Reducer]) -> list[TokenRecorder]:
    """Those of a chain."""
    return [m for m in methods if isinstance(m, TokenRecorder)]
