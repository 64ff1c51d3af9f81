"""How many guesses a forward pass should judge: as many as this machine and this text repay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError


@runtime_checkable
class Sizing(Protocol):
    """Chooses the size of trees."""

    def most(self, texts: int) -> int:
        """How many guesses a proposer should make at most, where a pass serves that many texts."""
        ...

    def choose(self, drafts: Sequence[Draft]) -> int:
        """How many guesses of each draft the next pass should judge; of drafts that know how likely theirs are."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always the same number of nodes beside the root."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"A draft has no fewer than 0 nodes beside its root, got {self.size}.")

    def most(self, texts: int) -> int:
        """See `Sizing.most`."""
        return self.size

    def choose(self, drafts: Sequence[Draft]) -> int:
        """See `Sizing.choose`."""
        return self.size


@dataclass(eq=False)
class Expected:
    """The size with the best expected speed: tokens that a pass should write, over the time that it takes.

    A draft with chances c_1 >= c_2 >= ... writes 1 + c_1 + ... + c_n tokens in a pass over its first n guesses, so the
    best n is found for every single draft. Where no guess is worth its time nothing is drafted, and decoding is as
    without drafts.

    Attributes:
        latency: rows of a pass -> its time, in units of a pass over one row, as measured on this machine
            (`tokenry.predict.lm.calibrate`). Between measured sizes it is interpolated, beyond them extrapolated.
        margin: how much faster drafting must promise to be than not drafting.
        expected: tokens that the passes so far should have written.
        spent: time that they should have taken.
    """

    latency: Mapping[int, float]
    margin: float = 1.02
    expected: float = field(init=False, default=0.0)
    spent: float = field(init=False, default=0.0)
    _rows: Float[np.ndarray, " sizes"] = field(init=False, repr=False)
    _time: Float[np.ndarray, " sizes"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.latency.get(1) != 1 or min(self.latency.values()) <= 0 or len(self.latency) < 2:
            raise InputError(
                "Latencies are ratios to a pass over one row, which is 1, and there are at least two; got "
                f"{dict(self.latency)}."
            )
        self._rows = np.array(sorted(self.latency), np.float64)
        # More rows never take less time: what looks like it is noise.
        self._time = np.maximum.accumulate([self.latency[int(rows)] for rows in self._rows])

    @property
    def speed_up(self) -> float:
        """Over plain decoding, as expected of the passes so far."""
        return self.expected / self.spent if self.spent else float("nan")

    def time(self, rows: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Of passes over so many rows, in units of a pass over one."""
        inside = np.interp(rows, self._rows, self._time)
        slope = (self._time[-1] - self._time[-2]) / (self._rows[-1] - self._rows[-2])
        return inside + np.maximum(rows - self._rows[-1], 0) * slope

    def most(self, texts: int) -> int:
        """See `Sizing.most`: no more than the largest size that was measured."""
        return max(1, int(self._rows[-1]) // max(texts, 1) - 1)

    def choose(self, drafts: Sequence[Draft]) -> int:
        """See `Sizing.choose`."""
        size = max((len(draft.chance) for draft in drafts if draft.chance is not None), default=1)
        written = np.zeros(size)
        for draft in drafts:
            if draft.chance is not None:
                written[: len(draft.chance)] += draft.chance
        written = written.cumsum()
        if not written[0]:
            return 0
        texts = len(drafts)
        time = self.time(texts * np.arange(1, size + 1.0))
        speed = written / time
        best = int(speed.argmax())
        if speed[best] < self.margin * speed[0]:
            best = 0
        self.expected += float(written[best])
        self.spent += float(time[best] * written[0] / time[0])
        return best
