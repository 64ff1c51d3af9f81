"""A measured value with what is known of its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

BY_SET: Final = "by set of questions"
BY_SEED: Final = "by seed"
"""What the values of `Measurement.by_seed` are called in results."""


@dataclass(frozen=True)
class Measurement:
    """A measured value with its interval and its value for each seed.

    Attributes:
        value: over all questions, or the mean over seeds.
        low, high: bounds of its 95 % interval (`tokenry.bench.stats`); None where none was computed.
        by_seed: for each set of questions, or each training seed, alone.
    """

    value: float
    low: float | None = None
    high: float | None = None
    by_seed: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The mean of one value per seed."""
        return cls(float(np.mean(values)) if len(values) else float("nan"), by_seed=tuple(map(float, values)))

    def over(self, by: float) -> Measurement:
        """This measurement in units of another; not a number where that is zero."""
        by = by or float("nan")
        low, high = (None if b is None else b / by for b in (self.low, self.high))
        return Measurement(self.value / by, low, high, tuple(v / by for v in self.by_seed))

    def to_json(self, seeds: str) -> dict[str, Any]:
        """JSON values, rounded to what they are good for.

        Args:
            seeds: what the values of `by_seed` are called: `BY_SET` or `BY_SEED`.
        """
        found: dict[str, Any] = {"value": rounded(self.value)}
        if self.low is not None and self.high is not None:
            found["interval"] = [rounded(self.low), rounded(self.high)]
        if len(self.by_seed) > 1:
            found[seeds] = [rounded(v) for v in self.by_seed]
        return found

    @classmethod
    def of_json(cls, values: Mapping[str, Any], seeds: str) -> Self:
        """What `to_json` wrote."""
        low, high = values.get("interval", (None, None))
        return cls(number(values["value"]), low, high, tuple(map(number, values.get(seeds, ()))))


def rounded(value: float) -> float | None:
    """Four significant digits; JSON has no NaN."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def number(value: float | None) -> float:
    """What `rounded` gave, as a number again."""
    return float("nan") if value is None else value
