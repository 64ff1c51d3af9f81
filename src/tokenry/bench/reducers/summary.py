"""From single results to the rows of a comparison: pure arithmetic on what the results file holds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from tokenry.bench.reducers.arms import BASELINES, FULL
from tokenry.bench.reducers.results import EVERY_ARM, ArmResult, Failure, Results
from tokenry.bench.stats import LEVEL, Interval, Outcomes, corrected, outcomes, paired_interval
from tokenry.data.questions.examples import normalise_answer

ArmName: TypeAlias = tuple[str, str]
"""Method and budget; seeds are pooled."""

_WRONG_METRIC = 0.01
"""A full model that scores no more than this share has hardly been understood."""


@dataclass(frozen=True)
class Rivalry:
    """A row's score against a baseline's that leaves as many tokens in the end.

    Attributes:
        name: the baseline.
        tokens_mean: visual tokens that it has in a layer, on average: fewer than a method at the same budget that acts
            in a late one.
        change: score minus the baseline's, with its paired interval.
        sure: the same as claims stand on it: at the level that is corrected for all such comparisons, so that it holds
            for all of them together, and with questions that the row failed on as lost.
    """

    name: str
    tokens_mean: float
    change: Interval
    sure: Interval

    @property
    def is_better(self) -> bool:
        """Whether the row beats the baseline, however many rows were tried."""
        return self.sure.sign > 0


@dataclass(frozen=True)
class Row:
    """One method at one budget, over all examples that were also answered on all tokens.

    Attributes:
        method, budget: the arm; seeds are pooled.
        examples, seeds: how many.
        failed: examples that this arm could not answer, or the model on all tokens, or neither; see `failed`.
        score: mean, None where the data set has no references.
        scored: examples with a score.
        change: score minus the full model's, with its paired interval; None for `none` itself.
        sure: the same as claims stand on it: at the level that is corrected for all rows, so that it holds for all of
            them together, and with questions that the row failed on as lost.
        outcomes: on how many examples the score rose and fell (of several seeds: their mean).
        against: the baselines that leave as many tokens in the end.
        agreement: share of answers equal to the full model's.
        tokens, tokens_mean: visual tokens entering the decoder, and on average over its layers.
        full_tokens: visual tokens that the pictures have.
        by_layer: visual tokens in each decoder layer.
        prefill_flops, kv_bytes: means.
        encoder_ms, selection_ms, prefill_ms, decode_ms, memory_bytes: medians.
        recall: mean share of the patches under the answer's regions that are present.
        by_topic: score by kind of question.
        lost_by_topic: the full model's score minus that, on the same questions.
        refusal: why this arm cannot run; the figures are then NaN or None.
    """

    method: str
    budget: str
    examples: int = 0
    seeds: int = 0
    failed: int = 0
    score: float | None = None
    scored: int = 0
    change: Interval | None = None
    sure: Interval | None = None
    outcomes: Outcomes | None = None
    against: tuple[Rivalry, ...] = ()
    agreement: float | None = None
    tokens: float | None = None
    tokens_mean: float | None = None
    full_tokens: float | None = None
    by_layer: tuple[float, ...] = ()
    prefill_flops: float | None = None
    kv_bytes: float | None = None
    encoder_ms: float | None = None
    selection_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    memory_bytes: float | None = None
    recall: float | None = None
    by_topic: dict[str, float] = field(default_factory=dict)
    lost_by_topic: dict[str, float] = field(default_factory=dict)
    refusal: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether this is the model on all of its tokens."""
        return self.method == FULL

    @property
    def is_baseline(self) -> bool:
        """Whether this is what the others have to beat, under whatever rule for position ids."""
        return _baseline(self.method) in BASELINES

    def versus(self, baseline: str) -> Rivalry | None:
        """How the row does against a baseline; None where they were not compared."""
        return next((rivalry for rivalry in self.against if rivalry.name == baseline), None)

    def __str__(self) -> str:
        return f"{self.method} at {self.budget}" if self.budget else self.method


@dataclass(frozen=True)
class Change:
    """An answer that differs from the full model's."""

    result: ArmResult
    full: ArmResult

    @property
    def verdict(self) -> str:
        """``lost``, ``gained`` or ``other`` (both right, both wrong, or no reference)."""
        before, after = self.full.score, self.result.score
        if before is None or after is None or before == after:
            return "other"
        return "lost" if after < before else "gained"


def summarise(results: Results) -> tuple[Row, ...]:
    """The rows of a comparison: `none` first, then the arms in the order in which they were planned."""
    measured = _Measured(results)
    order = planned(results)
    failures = {arm: _failures(results, arm) for arm in order}
    rows = [measured.row(*arm) for arm in measured.arms]
    rows += [Row(r.method, r.budget, refusal=r.reason) for r in results.refusals]
    missing = [arm for arm in order if failures[arm] and arm not in {(r.method, r.budget) for r in rows}]
    rows += [Row(*arm, refusal=_commonest(failures[arm])) for arm in missing]
    lost = {item for item in {f.item for f in failures.get((FULL, ""), ())} if item not in measured.full}
    rows = [
        replace(row, failed=len(lost | {f.item for f in failures.get((row.method, row.budget), ())}))
        for row in rows
    ]
    return tuple(sorted(rows, key=lambda r: order.get((r.method, r.budget), len(order))))


@dataclass(frozen=True)
class Refused:
    """Arms that did not run for the same reason.

    Attributes:
        arms: their names, as a sentence has them.
        reason: what the model's refusal says.
    """

    arms: str
    reason: str

    def __str__(self) -> str:
        return f"{self.arms}: not run: {self.reason}"


def refused(rows: Sequence[Row]) -> tuple[Refused, ...]:
    """The arms that did not run, each reason once."""
    reasons: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.refusal is not None:
            reasons[row.refusal].append(row)
    return tuple(Refused(_arms(several), reason) for reason, several in reasons.items())


def warnings(results: Results, rows: Sequence[Row]) -> tuple[str, ...]:
    """What a reader should know before believing a table."""
    full = next((row for row in rows if row.is_full), None)
    if full is None or full.score is None or full.score > _WRONG_METRIC:
        return ()
    example = next(r for r in results.results if r.method == FULL and r.score is not None)
    return (
        f"On all of its tokens the model scores {100 * full.score:.1f} % of {full.scored} questions: hardly any "
        f"reference matched, so differences mean nothing. Is the metric right? It says {example.answer!r} where the "
        f"reference is {example.truth!r} ({example.question!r}).",
    )


def same_choice(results: Results) -> tuple[str, ...]:
    """Methods that kept the same tokens of every picture, which on this model makes them one; a sentence for each.

    Budgets that leave all tokens say nothing, and are left out. Methods that merge the same tokens may weigh them in
    their own way, and then give other answers: these are not one.
    """
    kept: dict[ArmName, dict[str, tuple[str, str]]] = defaultdict(dict)
    for result in results.results:
        shortened = min(result.by_layer, default=0) < result.full_tokens
        if result.kept is not None and result.seed == 0 and shortened:
            kept[result.method, result.budget][result.item] = (result.kept, result.answer)
    alike: dict[tuple[str, frozenset[tuple[str, tuple[str, str]]]], list[str]] = defaultdict(list)
    order = planned(results)
    for (method, budget), choice in sorted(kept.items(), key=lambda arm: order[arm[0]]):
        alike[budget, frozenset(choice.items())].append(method)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for (budget, _), methods in alike.items():
        if len(methods) > 1:
            groups[tuple(methods)].append(budget)
    return tuple(
        f"{_and(methods)} kept the same tokens of every picture at {_and(budgets)}: on this model they are one method."
        for methods, budgets in groups.items()
    )


def _and(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@dataclass(frozen=True)
class Failed:
    """Answers that failed for the same reason.

    Attributes:
        arms: names of the arms, as a sentence has them; "all arms" where the questions themselves failed.
        examples: names of the questions, each once.
        reason: what the error says.
    """

    arms: str
    examples: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        several = f"{len(self.examples)} questions" if len(self.examples) > 1 else self.examples[0]
        return f"{several} ({self.arms}): {self.reason}"


def failed(results: Results) -> tuple[Failed, ...]:
    """What was not answered, each reason once, the commonest first."""
    order = planned(results)
    reasons: dict[str, list[Failure]] = defaultdict(list)
    for failure in results.failures:
        reasons[failure.reason].append(failure)
    found = []
    for reason, several in reasons.items():
        arms = sorted({f.arm[:2] for f in several}, key=lambda arm: order.get(arm, -1))
        named = "all arms" if EVERY_ARM[:2] in arms else _arms([Row(*arm) for arm in arms])
        found.append(Failed(named, tuple(dict.fromkeys(f.example for f in several)), reason))
    return tuple(sorted(found, key=lambda one: -len(one.examples)))


def _failures(results: Results, arm: ArmName) -> list[Failure]:
    """What an arm could not answer, by its own fault or the question's."""
    return [f for f in results.failures if f.arm[:2] in (arm, EVERY_ARM[:2])]


def _commonest(failures: Sequence[Failure]) -> str:
    (reason, _), *rest = Counter(failure.reason for failure in failures).most_common()
    return reason + (f" (and {len(rest)} other reasons)" if rest else "")


def nothing_ran(rows: Sequence[Row]) -> str | None:
    """What to say first if not one arm ran on fewer tokens; None if one did."""
    full = next((row for row in rows if row.is_full), None)
    if full is not None and full.refusal is not None:
        return f"Nothing was compared: on all of its tokens the model answered none of the {full.failed} questions."
    reduced = [row for row in rows if not row.is_full]
    if not reduced or any(row.refusal is None for row in reduced):
        return None
    return f"Nothing was compared: none of the {len(reduced)} arms on fewer tokens ran on this model."


def _arms(rows: Sequence[Row]) -> str:
    """ "fastv, pool at 50%, 25%": methods that share their budgets are named together."""
    budgets: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        budgets[row.method].append(row.budget)
    methods: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for method, of in budgets.items():
        methods[tuple(of)].append(method)
    return "; ".join(str(Row(", ".join(names), ", ".join(of))) for of, names in methods.items())


def planned(results: Results) -> dict[ArmName, int]:
    """Rank of each arm: by run, as planned."""
    plans = [arm for run in results.runs for arm in run.plan["arms"]]
    seen = [(FULL, ""), *plans, *((r.method, r.budget) for r in results.results)]
    return {arm: i for i, arm in enumerate(dict.fromkeys(seen))}


def changes(results: Results) -> dict[ArmName, list[Change]]:
    """For each arm the answers that differ from the full model's (first seed of a method that draws lots)."""
    full = {r.item: r for r in results.results if r.method == FULL}
    found: dict[ArmName, list[Change]] = {}
    for result in results.results:
        if result.method == FULL or result.seed or result.item not in full:
            continue
        differing = found.setdefault((result.method, result.budget), [])
        if not _same(result, full[result.item]):
            differing.append(Change(result, full[result.item]))
    order = planned(results)
    return {arm: found[arm] for arm in sorted(found, key=lambda a: order[a])}


class _Measured:
    """The results of a comparison by arm, and what its arms are compared with."""

    def __init__(self, results: Results) -> None:
        self.arms: dict[ArmName, list[ArmResult]] = defaultdict(list)
        for result in results.results:
            self.arms[result.method, result.budget].append(result)
        self.full = {r.item: r for r in self.arms.get((FULL, ""), [])}
        # Seeds are pooled per example first: an interval over pictures, not over draws.
        self.scores = {arm: _scores(found, self.full) for arm, found in self.arms.items()}
        against = _against(results)
        self.rivals = {
            arm: [
                rival for rival in against.get(arm, ()) if scores.keys() & self.scores.get(rival, {}).keys()
            ]
            for arm, scores in self.scores.items()
        }
        self.tried = sum(bool(scores) for arm, scores in self.scores.items() if arm[0] != FULL)
        self.met = sum(map(len, self.rivals.values()))
        # An arm that fails on what the model can do on all tokens has not kept its score there.
        self.lost: dict[ArmName, dict[str, float]] = defaultdict(dict)
        for failure in results.failures:
            if failure.item in self.scores.get((FULL, ""), {}):
                self.lost[failure.arm[:2]][failure.item] = 0.0

    def row(self, method: str, budget: str) -> Row:
        """The row of an arm."""
        paired = [r for r in self.arms[method, budget] if r.item in self.full]
        if not paired:
            reason = "no example has been answered both by this arm and on all tokens yet"
            return Row(method, budget, refusal=reason)
        row = replace(
            _figures(method, budget, paired),
            agreement=_mean(float(_same(r, self.full[r.item])) for r in paired),
        )
        scores = self.scores[method, budget]
        if not scores:
            return row
        lost = {item: self.scores[FULL, ""][item] - score for item, score in scores.items()}
        row = replace(
            row,
            score=_mean(scores.values()),
            scored=len(scores),
            by_topic=self._by_topic(scores),
            lost_by_topic=self._by_topic(lost),
        )
        if row.is_full:
            return row
        change, sure = self._intervals((method, budget), (FULL, ""), self.tried)
        rivals = [
            Rivalry(
                _baseline(rival[0]),
                statistics.fmean(r.tokens_mean for r in self.arms[rival]),
                *self._intervals((method, budget), rival, self.met),
            )
            for rival in self.rivals[method, budget]
        ]
        counts = outcomes([-difference for difference in lost.values()])
        return replace(row, change=change, sure=sure, outcomes=counts, against=tuple(rivals))

    def _by_topic(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The mean of a figure of questions, by their kind where it is known."""
        topics: dict[str, list[float]] = defaultdict(list)
        for item, figure in figures.items():
            topics[self.full[item].topic].append(figure)
        return {topic: statistics.fmean(values) for topic, values in sorted(topics.items()) if topic}

    def _intervals(self, arm: ArmName, other: ArmName, comparisons: int) -> tuple[Interval, Interval]:
        """The paired interval on its own, and as claims stand on it where there are so many comparisons."""
        others = self.scores[other]

        def interval(scores: Mapping[str, float], level: float) -> Interval:
            both = [item for item in scores if item in others]
            difference = [scores[item] - others[item] for item in both]
            return paired_interval(difference, [self.full[item].picture for item in both], level=level)

        scores = self.scores[arm]
        return interval(scores, LEVEL), interval(scores | self.lost[arm], corrected(LEVEL, comparisons))


def _scores(results: Sequence[ArmResult], full: Mapping[str, ArmResult]) -> dict[str, float]:
    """The mean score over seeds by example, of those that have one here and on all tokens."""
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.score is not None and result.item in full and full[result.item].score is not None:
            found[result.item].append(result.score)
    return {item: statistics.fmean(scores) for item, scores in found.items()}


def _against(results: Results) -> dict[ArmName, list[ArmName]]:
    """The baselines that each arm has to beat, as planned."""
    return {
        arm: rivals
        for run in results.runs
        for arm, rivals in zip(run.plan["arms"], run.plan.get("against", []), strict=False)
    }


def _baseline(label: str) -> str:
    """What a baseline is called whatever its settings: "random" of "random(positions=compact)"."""
    return label.partition("(")[0]


def _figures(method: str, budget: str, results: Sequence[ArmResult]) -> Row:
    """What does not need a reference."""
    layers = zip(*(r.by_layer for r in results), strict=False)
    return Row(
        method=method,
        budget=budget,
        examples=len({r.item for r in results}),
        seeds=len({r.seed for r in results}),
        tokens=_mean(r.tokens for r in results),
        tokens_mean=_mean(r.tokens_mean for r in results),
        full_tokens=_mean(r.full_tokens for r in results),
        by_layer=tuple(statistics.fmean(layer) for layer in layers),
        prefill_flops=_mean(r.prefill_flops for r in results),
        kv_bytes=_mean(r.kv_bytes for r in results),
        encoder_ms=_median(results, lambda r: r.encoder_ms),
        selection_ms=_median(results, lambda r: r.selection_ms),
        prefill_ms=_median(results, lambda r: r.prefill_ms),
        decode_ms=_median(results, lambda r: r.decode_ms),
        memory_bytes=_median(results, lambda r: r.memory_bytes),
        recall=_mean(r.recall for r in results),
    )


def _same(result: ArmResult, full: ArmResult) -> bool:
    return normalise_answer(result.answer) == normalise_answer(full.answer)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _median(results: Sequence[ArmResult], of: Callable[[ArmResult], float | None]) -> float | None:
    known = [v for r in results if (v := of(r)) is not None]
    return statistics.median(known) if known else None
