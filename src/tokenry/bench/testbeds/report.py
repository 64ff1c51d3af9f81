"""What is told of a test bed: verdicts on the lines, methods by kind of question, and what training put in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tokenry.bench import environment
from tokenry.bench.reducers.arms import BASELINES, BUDGETS, FULL, plan_arms
from tokenry.bench.reproduce.measurement import rounded
from tokenry.bench.reproduce.vqa.lab import Chain
from tokenry.bench.reproduce.vqa.predictions import Predictions, mean_over
from tokenry.bench.testbeds.asking import BedArm, BedLab
from tokenry.bench.testbeds.bed import Bed
from tokenry.bench.testbeds.lines import LINES, Line, Verdict
from tokenry.bench.testbeds.probes import Probed, probe_bed
from tokenry.bench.testbeds.smaller import smaller_pictures
from tokenry.hosts import Session
from tokenry.reduce import Reducer
from tokenry.reduce.registry import REDUCERS, fill_in
from tokenry.tokens import Budget, BudgetLike, TokenryError

ALL_TOKENS = "100%"


@dataclass(frozen=True)
class Row:
    """One way of asking, in the table of methods.

    Attributes:
        method: its name: a method's, or how the picture is shown.
        budget: how many tokens stay, as text.
        found: what was answered.
        ranked: whether it is a method, among which beds are compared.
    """

    method: str
    budget: str
    found: Predictions
    ranked: bool = True

    def to_json(self) -> dict[str, Any]:
        """JSON values: accuracies in percent."""
        accuracy = mean_over(self.found, self.found.correct, scale=100)
        by_kind = {kind: rounded(100 * share) for kind, share in self.found.by_kind().items()}
        return {
            "method": self.method,
            "budget": self.budget,
            "accuracy": rounded(accuracy.value),
            "interval": [rounded(v) for v in (accuracy.low, accuracy.high) if v is not None],
            "by kind": by_kind,
            "visual tokens a layer": rounded(self.found.tokens),
            "asked patches kept": rounded(_mean(self.found.asked)),
            "seconds": rounded(self.found.seconds),
            "ranked": self.ranked,
        }


@dataclass(frozen=True)
class BedReport:
    """What was measured of a test bed.

    Attributes:
        bed: the bed.
        verdicts: on every line.
        rows: the model on all tokens, and every method at every budget.
        left_out: why a method of the registry was not measured.
        probes: by the name of a checkpoint, what methods would read of it; the bed's own comes last.
    """

    bed: Bed
    verdicts: tuple[Verdict, ...]
    rows: tuple[Row, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    probes: Mapping[str, Probed] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        examples = self.bed.examples
        facts = environment.facts(self.bed.model, self.bed.name)
        kept = ("model", "class", "fingerprint", "parameters", "dtype", "attention", "device", "code")
        return {
            "bed": self.bed.name,
            "model": {name: facts[name] for name in kept},
            "scenes": self.bed.scenes,
            "questions": len(examples),
            "pictures": len({example.picture for example in examples}),
            "visual tokens": self.bed.sample.lengths[0],
            "lines": [verdict.to_json() for verdict in self.verdicts],
            "methods": [row.to_json() for row in self.rows],
            "left out": dict(self.left_out),
            "probes": [{"checkpoint": name, **found.to_json()} for name, found in self.probes.items()],
        }


def judge_bed(
    lab: BedLab, lines: Sequence[Line] = LINES, methods: Sequence[Reducer] = ()
) -> tuple[Verdict, ...]:
    """Hold a bed against the lines, and nothing else.

    Args:
        lab: the bed; with a cache an interrupted run goes on where it stopped.
        lines: what it has to meet.
        methods: those about which a miss may block claims.
    """
    answered = lab.ask(_compared(lab.bed, lines), lab.bed.name)
    return tuple(line.judge(lab.bed, answered, methods) for line in lines)


def measure_bed(
    lab: BedLab,
    *,
    lines: Sequence[Line] = LINES,
    budgets: Sequence[BudgetLike] = BUDGETS,
    before: Mapping[str, BedLab] | None = None,
) -> BedReport:
    """Hold a bed against the lines, rank the methods on it, and probe it.

    Args:
        lab: the bed; with a cache an interrupted run goes on where it stopped.
        lines: what it has to meet.
        budgets: at which methods are ranked.
        before: the same bed with earlier checkpoints, by name, to be probed beside it.
    """
    bed = lab.bed
    methods, left_out = runnable(bed)
    rows = _rows(bed, methods, budgets)
    arms = {arm.name: arm for arm in (*_compared(bed, lines), *(arm for arm, *_ in rows))}
    answered = lab.ask(tuple(arms.values()), bed.name)
    verdicts = tuple(line.judge(bed, answered, methods) for line in lines)
    probes = {name: probe_bed(earlier) for name, earlier in (before or {}).items()}
    probes[bed.name] = probe_bed(lab)
    table = tuple(Row(method, budget, answered[arm.name], ranked) for arm, method, budget, ranked in rows)
    return BedReport(bed, verdicts, table, left_out, probes)


def _compared(bed: Bed, lines: Sequence[Line]) -> tuple[BedArm, ...]:
    """What lines compare, each way of asking once."""
    told = [line for line in lines if line.lacks(bed) is None]
    return tuple({arm.name: arm for line in told for arm in line.arms(bed)}.values())


def runnable(bed: Bed) -> tuple[tuple[Reducer, ...], dict[str, str]]:
    """The methods of the registry that run on a bed, as they are by default, and why the others do not."""
    found: list[Reducer] = []
    left_out: dict[str, str] = {}
    for name in REDUCERS.names():
        try:
            chain = fill_in(name)
            Session(bed.model, chain, crops=None)  # checks, and touches nothing
            found += chain
        except (TokenryError, TypeError) as error:
            left_out[name] = str(error)
    return tuple(found), left_out


def _rows(
    bed: Bed, methods: Sequence[Reducer], budgets: Sequence[BudgetLike]
) -> list[tuple[BedArm, str, str, bool]]:
    """What the table of methods has: an arm, its method and budget, and whether it is ranked."""
    chains: dict[tuple[str, str], list[Chain]] = defaultdict(list)
    others = [method for method in methods if method.slug not in BASELINES]
    for arm in plan_arms(others, budgets):
        chains[arm.method, arm.budget].append(arm.methods)
    rows = [
        (
            BedArm(f"{method} at {budget or ALL_TOKENS}", tuple(own)),
            method,
            budget or ALL_TOKENS,
            method != FULL,
        )
        for (method, budget), own in chains.items()
    ]
    for share in (b.share for b in map(Budget.of, budgets) if b.share is not None):
        rows += [
            (smaller, smaller.name.rpartition(" (")[0], str(Budget.of(share)), False)
            for smaller in smaller_pictures(bed, share)
        ]
    return rows


def accuracies(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Budget -> method -> accuracy of the methods that a report ranks, from its JSON values."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in report["methods"]:
        if row["ranked"]:
            found[row["budget"]][row["method"]] = row["accuracy"]
    return dict(found)


def _mean(values: Any) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
