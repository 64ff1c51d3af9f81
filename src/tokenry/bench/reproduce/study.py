"""Studies: reproductions that train or measure models of their own, where the lab's questions say nothing.

The experiment is given a `Study` and returns an `Outcome`. Whatever takes long goes through `Study.train` or is kept in
`Study.folder`, so that an interrupted reproduction goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from tokenry.bench import environment
from tokenry.bench.lines import digest
from tokenry.bench.reproduce.figure import Figure, rounded
from tokenry.bench.reproduce.recipe import Recipe
from tokenry.bench.reproduce.verdict import judge
from tokenry.data.packages import Provenance
from tokenry.tokens import InputError
from tokenry.train.loop import Batch, LoopSettings, Objective, train

__all__ = ["Arm", "Figure", "Outcome", "Study"]

Trained = TypeVar("Trained", bound=Objective)


@dataclass(frozen=True)
class Study:
    """What an experiment is given.

    Attributes:
        settings: of the recipe.
        seeds: of the recipe; one training (or one draw of data) each.
        folder: for checkpoints and whatever else a continued run should find again.
        console: where progress is shown; None shows it on stderr.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    folder: Path
    console: Console | None = None

    def train(
        self, objective: Trained, batches: Callable[[int], Batch], settings: LoopSettings, name: str
    ) -> Trained:
        """Train a model on the CPU, or take up its training, and return it in evaluation mode.

        Args:
            objective: the module to train, in place.
            batches: step -> batch, deterministic.
            settings: schedule and optimiser.
            name: of the arm and seed; its checkpoints lie in a folder of that name.
        """
        train(objective, batches, settings, self.folder / name, title=name, workers=0, console=self.console)
        return objective.eval()


@dataclass(frozen=True)
class Arm:
    """One thing that was measured, with one value per seed."""

    what: str
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return Figure.of(self.values).value


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        metric: what the values of the arms are, with their unit ("bits per byte of held-out man pages").
        ours, baseline: what the claim is about, and what it compares with.
        figures: what the recipe's criteria are about, by name.
        tables: name -> row -> column -> value.
        details: further JSON values.
        notes: what a reader must know.
        data: where the data came from.
    """

    metric: str
    ours: Arm
    baseline: Arm
    figures: Mapping[str, Figure]
    tables: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    data: Sequence[Provenance] = ()

    def to_json(self) -> dict[str, Any]:
        """The part of a result file that says what was measured."""
        return {
            "metric": self.metric,
            "ours": {"what": self.ours.what, "value": rounded(self.ours.mean)},
            "baseline": {"what": self.baseline.what, "value": rounded(self.baseline.mean)},
            "ratio": Figure(self.ours.mean).over(self.baseline.mean).to_json()["value"],
        }


def to_values(slug: str, recipe: Recipe, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """The content of a study's result file."""
    found, judged = judge(recipe.criteria, outcome.figures, _SEEDS)
    around = environment.circumstances()
    values = {
        "system": slug,
        "verdict": found,
        "claim": recipe.claim,
        **outcome.to_json(),
        "criteria": judged,
        "seeds": {
            "seeds": list(recipe.seeds),
            "ours": [rounded(v) for v in outcome.ours.values],
            "baseline": [rounded(v) for v in outcome.baseline.values],
        },
        **outcome.tables,
        **outcome.details,
        "notes": list(outcome.notes),
        "data": [f"{p.package} {p.version} ({p.licence})" for p in outcome.data],
        "settings": recipe.to_json()["settings"],
        "settings hash": digest(recipe.to_json()),
        "machine": f"{around['machine']}, {around['threads']} threads used",
        "load per core": environment.load_average(),
        "versions": around["versions"] | {"code": around["code"]},
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(seconds, 1),
    }
    if clash := sorted(_OWN & {*outcome.tables, *outcome.details}):
        raise InputError(f"The experiment of {slug} reports {clash[0]!r}, a name every result has.")
    return values


_SEEDS = "by seed"
_OWN = {"system", "verdict", "claim", "metric", "ours", "baseline", "ratio", "criteria", "seeds", "notes", "data",
        "settings", "machine", "versions", "date", "seconds"}  # fmt: skip
