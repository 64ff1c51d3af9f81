"""Designs of studies: what a reproduction does and when it counts as shown, written down before the first run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tokenry.tokens import InputError
from tokenry.train.recipe import read_as, read_yaml

BOUNDS = ("at_least", "at_most", "above")


@dataclass(frozen=True)
class Questions:
    """Which held-out questions are put: several sets of composed pictures, for the spread between them.

    Attributes:
        seeds: one set of test scenes each.
        pictures: scenes per set; they are run as one batch.
        per_picture: questions about each scene, all of different kinds.
    """

    seeds: tuple[int, ...]
    pictures: int = 64
    per_picture: int = 4

    def __post_init__(self) -> None:
        if not self.seeds or min(self.pictures, self.per_picture) < 1:
            raise InputError(f"A reproduction needs seeds, pictures and questions, got {self}.")


@dataclass(frozen=True)
class Criterion:
    """A bound on one measurement.

    Attributes:
        name: of the measurement.
        kind: "at_least", "at_most" or "above".
        bound: the bound, in the measurement's unit.
        means: what it says, as a sentence.
        decisive: whether it is the claim itself, rather than its size or circumstances.
    """

    name: str
    kind: str
    bound: float
    means: str
    decisive: bool = False

    @classmethod
    def read(cls, name: str, values: Mapping[str, Any]) -> Self:
        """Read one from a design: ``{at_least: 3, decisive: true, means: ...}``.

        Raises:
            InputError: no bound or several, or no meaning.
        """
        bounds = [kind for kind in BOUNDS if kind in values]
        unknown = set(values) - {*BOUNDS, "means", "decisive"}
        if len(bounds) != 1 or unknown or not values.get("means"):
            raise InputError(
                f"Criterion {name!r} needs one of {', '.join(BOUNDS)} and `means`, and may be `decisive`; it has "
                f"{', '.join(values)}."
            )
        return cls(
            name, bounds[0], float(values[bounds[0]]), str(values["means"]), bool(values.get("decisive"))
        )

    def holds(self, value: float) -> bool:
        """Whether a value meets it; one that is not a number does not."""
        match self.kind:
            case "at_least":
                return value >= self.bound
            case "at_most":
                return value <= self.bound
            case _:
                return value > self.bound


@dataclass(frozen=True)
class StudyDesign:
    """What a reproduction measures and when its claim counts as shown, as its YAML file says.

    Attributes:
        claim: the paper's claim, in our words.
        settings: the experiment's own.
        criteria: what must hold.
        seeds: one set of questions, or one training, each.
        questions: what the embedded model is asked; None where models of the study's own are measured.
        smoke: settings under which all of it runs in seconds; what it finds then means nothing.
        notes: what a reader of the committed result must know.
    """

    claim: str
    settings: Mapping[str, Any]
    criteria: tuple[Criterion, ...]
    seeds: tuple[int, ...]
    questions: Questions | None = None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a design from YAML.

        Raises:
            InputError: it cannot be read, or lacks something.
        """
        what = "the design of a reproduction"
        file = read_as(_File, read_yaml(path, what), path, what)
        seeds = file.seeds if file.questions is None else file.questions.seeds
        design = cls(
            claim=file.claim.strip(),
            settings=file.settings,
            criteria=tuple(Criterion.read(name, values) for name, values in file.criteria.items()),
            seeds=seeds,
            questions=file.questions,
            smoke=file.smoke,
            notes=file.notes,
        )
        if not design.seeds:
            raise InputError(f"{path}: a reproduction needs at least one seed.")
        if strange := sorted(set(design.smoke) - set(design.settings)):
            raise InputError(f"{path}: smoke overrides {strange[0]!r}, which is no setting of this design.")
        if not any(c.decisive for c in design.criteria):
            raise InputError(f"{path}: at least one criterion must be decisive.")
        return design

    def rehearsal(self) -> Self:
        """The same with its `smoke` settings, one seed and two questions: all of the code in seconds, no meaning."""
        seeds = self.seeds[:1]
        return replace(
            self,
            settings={**self.settings, **self.smoke},
            seeds=seeds,
            questions=None if self.questions is None else Questions(seeds, pictures=2, per_picture=1),
            notes=("A rehearsal: what was measured means nothing.",),
        )

    def to_json(self) -> dict[str, Any]:
        """Everything that determines what is measured and how it is judged, as JSON values."""
        asked: dict[str, Any] = {"seeds": list(self.seeds)}
        if (q := self.questions) is not None:
            asked = {
                "questions": {"seeds": list(q.seeds), "pictures": q.pictures, "per_picture": q.per_picture}
            }
        return asked | {
            "settings": _json(self.settings),
            "criteria": {c.name: [c.kind, c.bound, c.decisive] for c in self.criteria},
        }


@dataclass(frozen=True)
class _File:
    """What stands in a design's YAML."""

    claim: str
    settings: dict[str, Any]
    criteria: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = ()
    questions: Questions | None = None
    smoke: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json(v) for k, v in value.items()}
    return [_json(v) for v in value] if isinstance(value, (list, tuple)) else value
