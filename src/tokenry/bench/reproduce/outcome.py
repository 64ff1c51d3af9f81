"""Outcomes: what the experiment of a reproduction hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tokenry.bench.reproduce.measurement import Measurement
from tokenry.data.packages import Provenance

ACCURACY = "accuracy"
"""The metric of questions put to the embedded model: the share of right answers."""


@dataclass(frozen=True)
class Arm:
    """One thing that was measured.

    Attributes:
        what: its name.
        measured: its value of the outcome's metric, for each seed and over all.
    """

    what: str
    measured: Measurement

    @classmethod
    def of(cls, what: str, values: Sequence[float]) -> Self:
        """An arm with one value per seed."""
        return cls(what, Measurement.of(values))


@dataclass(frozen=True)
class Asked:
    """What is told only of reproductions that ask the embedded model.

    Attributes:
        full: the model on all tokens.
        questions: how many, about how many scenes.
        model: facts about it.
        seconds: what all arms took, had none been shared with another reproduction or kept from an earlier run.
    """

    full: Arm
    questions: str
    model: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        metric: what the values of the arms are, with their unit ("bits per byte of held-out man pages").
        ours, baseline: what the claim is about, and what it compares with.
        measurements: what the criteria of the design are about, by name.
        tables: name -> row -> column -> value, or a table whose first row names the columns.
        details: further JSON values.
        data: where the data came from.
        asked: about the embedded model, if it was asked.
    """

    metric: str
    ours: Arm
    baseline: Arm
    measurements: Mapping[str, Measurement]
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Provenance] = ()
    asked: Asked | None = None
