"""Results of reproductions: what stands in ``docs/results/SLUG.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tokenry.bench import environment
from tokenry.bench.lines import digest
from tokenry.bench.reproduce.design import StudyDesign
from tokenry.bench.reproduce.measurement import BY_SEED, BY_SET, Measurement, rounded
from tokenry.bench.reproduce.outcome import ACCURACY, Arm, Outcome
from tokenry.bench.reproduce.verdict import Judged, judge, verdict
from tokenry.tokens import InputError
from tokenry.tokens.files import whole_file

_SETS, _SPREAD, _SUBSETS, _TRAINING = "sets of test scenes", "spread of ours", "random subsets", "training"
_THIS_RUN, _ALONE = "this run", "all arms, had none been shared or kept"
_ONE_TRAINING = "one trained model; other training seeds were not available"


@dataclass(frozen=True)
class Headline:
    """An arm as a result states it: its name and one value."""

    what: str
    value: float | None


@dataclass(frozen=True)
class Seeds:
    """The two arms of the claim, seed by seed.

    Attributes:
        seeds: of trainings or draws of data, or of sets of test scenes.
        ours, baseline: one value each.
        spread: greatest minus least of ours; None where models of the study's own were measured.
        subsets: seeds of arms that select at random; None likewise.
    """

    seeds: tuple[int, ...]
    ours: tuple[float | None, ...]
    baseline: tuple[float | None, ...]
    spread: float | None = None
    subsets: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        arms = {"ours": list(self.ours), "baseline": list(self.baseline)}
        if self.subsets is None:
            return {"seeds": list(self.seeds), **arms}
        rest = {_SPREAD: self.spread, _SUBSETS: list(self.subsets), _TRAINING: _ONE_TRAINING}
        return {_SETS: list(self.seeds), **arms, **rest}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        arms = (tuple(values["ours"]), tuple(values["baseline"]))
        if _SETS not in values:
            return cls(tuple(values["seeds"]), *arms)
        return cls(tuple(values[_SETS]), *arms, values[_SPREAD], tuple(values[_SUBSETS]))


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A finished reproduction, as its result file holds it.

    Attributes:
        system: its slug.
        verdict: "shown", "partly" or "not shown".
        claim: the paper's claim.
        metric: what the values of the arms are.
        ours, baseline: the two arms that the claim is about.
        ratio: ours to baseline; None where that is zero.
        full: the embedded model on all tokens, if it was asked.
        criteria: what was to hold, and whether it does.
        seeds: the arms seed by seed.
        tables: tables and details of the experiment's own, by name.
        notes: what a reader must know.
        data: where the data came from; None if only the embedded model was asked.
        questions: how many were put to the embedded model, if it was asked.
        settings: of the design.
        settings_hash: of all of the design that decides what is measured and how it is judged.
        model: facts about the embedded model, if it was asked.
        machine, load_per_core, versions, date: where, with what, when.
        seconds: of this run.
        seconds_alone: of all arms, had none been shared or kept, if the embedded model was asked.
    """

    system: str
    verdict: str
    claim: str
    metric: str
    ours: Headline
    baseline: Headline
    ratio: float | None
    full: Headline | None
    criteria: tuple[Judged, ...]
    seeds: Seeds
    tables: Mapping[str, Any]
    notes: tuple[str, ...]
    data: tuple[str, ...] | None
    questions: str | None
    settings: Mapping[str, Any]
    settings_hash: str
    model: Mapping[str, Any] | None
    machine: str
    load_per_core: float | None
    versions: Mapping[str, str]
    date: str
    seconds: float
    seconds_alone: float | None = None

    @classmethod
    def of(cls, slug: str, design: StudyDesign, outcome: Outcome, seconds: float) -> Self:
        """Judge what an experiment found, and note the circumstances.

        Raises:
            InputError: a criterion about something that was not measured; a table with a name that every result has.
        """
        criteria = judge(design.criteria, outcome.measurements)
        around, asked = environment.circumstances(), outcome.asked
        settings = design.to_json()
        tables = {**outcome.tables, **outcome.details}
        if clash := sorted(set(_KEYS) & set(tables)):
            raise InputError(f"The experiment of {slug} reports {clash[0]!r}, a name every result has.")
        return cls(
            system=slug,
            verdict=verdict(criteria),
            claim=design.claim,
            metric=outcome.metric,
            ours=_headline(outcome, outcome.ours),
            baseline=_headline(outcome, outcome.baseline),
            ratio=_ratio(outcome),
            full=None if asked is None else _headline(outcome, asked.full),
            criteria=criteria,
            seeds=_seeds(design, outcome),
            tables=tables,
            notes=design.notes,
            data=tuple(f"{p.package} {p.version} ({p.licence})" for p in outcome.data)
            if asked is None
            else None,
            questions=None if asked is None else asked.questions,
            settings=settings["settings"],
            settings_hash=digest(settings),
            model=None if asked is None else asked.model,
            machine=f"{around['machine']}, {around['threads']} threads used",
            load_per_core=environment.load_average(),
            versions=around["versions"] | {"code": around["code"]},
            date=datetime.now(UTC).date().isoformat(),
            seconds=round(seconds, 1),
            seconds_alone=None if asked is None else round(asked.seconds, 1),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of the result file; what does not apply is left out."""
        name = "value" if self.questions is None else ACCURACY
        by = BY_SEED if self.questions is None else BY_SET
        found = {
            "system": self.system,
            "verdict": self.verdict,
            "claim": self.claim,
            "metric": self.metric if self.questions is None else None,
            "ours": {"what": self.ours.what, name: self.ours.value},
            "baseline": {"what": self.baseline.what, name: self.baseline.value},
            "ratio": self.ratio,
            "full": None if self.full is None else {"what": self.full.what, name: self.full.value},
            "criteria": {one.criterion.means: one.to_json(by) for one in self.criteria},
            "seeds": self.seeds.to_json(),
            **self.tables,
            "notes": list(self.notes),
            "data": None if self.data is None else list(self.data),
            "questions": self.questions,
            "settings": dict(self.settings),
            "settings hash": self.settings_hash,
            "model": self.model,
            "machine": self.machine,
            "load per core": self.load_per_core,
            "versions": dict(self.versions),
            "date": self.date,
            "seconds": self.seconds
            if self.seconds_alone is None
            else {_THIS_RUN: self.seconds, _ALONE: self.seconds_alone},
        }
        return {key: value for key, value in found.items() if value is not None or key not in _IF_ANY}

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        asked = "questions" in values
        name, by = (ACCURACY, BY_SET) if asked else ("value", BY_SEED)
        seconds = values["seconds"]

        def headline(arm: str) -> Headline:
            return Headline(values[arm]["what"], values[arm][name])

        return cls(
            system=values["system"],
            verdict=values["verdict"],
            claim=values["claim"],
            metric=values.get("metric", ACCURACY),
            ours=headline("ours"),
            baseline=headline("baseline"),
            ratio=values["ratio"],
            full=headline("full") if asked else None,
            criteria=tuple(Judged.of_json(means, one, by) for means, one in values["criteria"].items()),
            seeds=Seeds.of_json(values["seeds"]),
            tables={key: value for key, value in values.items() if key not in _KEYS},
            notes=tuple(values["notes"]),
            data=None if asked else tuple(values["data"]),
            questions=values.get("questions"),
            settings=values["settings"],
            settings_hash=values["settings hash"],
            model=values.get("model"),
            machine=values["machine"],
            load_per_core=values["load per core"],
            versions=values["versions"],
            date=values["date"],
            seconds=seconds[_THIS_RUN] if asked else seconds,
            seconds_alone=seconds[_ALONE] if asked else None,
        )

    def write(self, path: Path) -> None:
        """Write the result file, whole or not at all.

        Raises:
            InputError: the folder cannot be written.
        """
        text = json.dumps(_without_nan(self.to_json()), indent=1, ensure_ascii=False, allow_nan=False)
        with whole_file(path) as scratch:
            scratch.write_text(text + "\n", encoding="utf-8")


_IF_ANY = ("metric", "full", "data", "questions", "model")
_KEYS = ("system", "verdict", "claim", "metric", "ours", "baseline", "ratio", "full", "criteria", "seeds", "notes",
         "data", "questions", "settings", "settings hash", "model", "machine", "load per core", "versions", "date",
         "seconds")  # fmt: skip


def _shown(outcome: Outcome, value: float) -> float | None:
    """Accuracies to four decimals, anything else to four significant digits."""
    return rounded(value) if outcome.asked is None else round(value, 4)


def _headline(outcome: Outcome, arm: Arm) -> Headline:
    return Headline(arm.what, _shown(outcome, arm.measured.value))


def _ratio(outcome: Outcome) -> float | None:
    ratio = Measurement(outcome.ours.measured.value).over(outcome.baseline.measured.value).value
    return _shown(outcome, ratio) if math.isfinite(ratio) else None


def _seeds(design: StudyDesign, outcome: Outcome) -> Seeds:
    ours, baseline = outcome.ours.measured.by_seed, outcome.baseline.measured.by_seed
    shown_ours, shown_baseline = (tuple(_shown(outcome, v) for v in values) for values in (ours, baseline))
    if outcome.asked is None:
        return Seeds(design.seeds, shown_ours, shown_baseline)
    subsets = tuple(design.settings.get("random_seeds", ()))
    return Seeds(design.seeds, shown_ours, shown_baseline, round(max(ours) - min(ours), 4), subsets)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
