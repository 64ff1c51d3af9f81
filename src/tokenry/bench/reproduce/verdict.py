"""The verdict on what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tokenry.bench.reproduce.design import BOUNDS, Criterion
from tokenry.bench.reproduce.measurement import Measurement
from tokenry.tokens import InputError


@dataclass(frozen=True)
class Judged:
    """A criterion beside what was measured.

    Attributes:
        criterion: the bound.
        measured: the value it is about.
        holds: whether it meets the bound.
    """

    criterion: Criterion
    measured: Measurement
    holds: bool

    def to_json(self, seeds: str) -> dict[str, Any]:
        """JSON values, under the sentence that the criterion says.

        Args:
            seeds: what the values of one seed each are called.
        """
        c = self.criterion
        said = {"holds": self.holds, _in_words(c.kind): c.bound, "decisive": c.decisive}
        return said | self.measured.to_json(seeds)

    @classmethod
    def of_json(cls, means: str, values: Mapping[str, Any], seeds: str) -> Self:
        """What `to_json` wrote; results name criteria by what they mean."""
        (kind,) = (k for k in BOUNDS if _in_words(k) in values)
        bound, decisive = values[_in_words(kind)], values["decisive"]
        measured = Measurement.of_json(values, seeds)
        return cls(Criterion(means, kind, bound, means, decisive), measured, values["holds"])


def judge(criteria: Sequence[Criterion], measurements: Mapping[str, Measurement]) -> tuple[Judged, ...]:
    """Hold every criterion against the measurement it is about.

    Raises:
        InputError: a criterion about something that the experiment does not measure.
    """
    if missing := [c.name for c in criteria if c.name not in measurements]:
        raise InputError(
            f"The design has a criterion about {missing[0]!r}; measured were {', '.join(measurements)}."
        )
    found = ((c, measurements[c.name]) for c in criteria)
    return tuple(Judged(c, measured, c.holds(measured.value)) for c, measured in found)


def verdict(judged: Iterable[Judged]) -> str:
    """`shown` if every criterion holds, `partly` if a decisive one does, else `not shown`."""
    every = tuple(judged)
    if all(one.holds for one in every):
        return "shown"
    return "partly" if any(one.holds for one in every if one.criterion.decisive) else "not shown"


def _in_words(kind: str) -> str:
    return kind.replace("_", " ")
