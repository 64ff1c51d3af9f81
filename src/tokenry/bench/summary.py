"""From single results to the rows of a comparison: pure arithmetic on what the results file holds."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tokenry.bench.arms import FULL
from tokenry.bench.results import EVERY_ARM, Failure, Result, Results
from tokenry.bench.stats import Interval, paired_interval
from tokenry.data.examples import normalise_answer


@dataclass(frozen=True)
class Row:
    """One method at one budget, over all examples that were also answered on all tokens.

    Attributes:
        method, budget: the arm; seeds are pooled.
        examples, seeds: how many.
        failed: examples that this arm could not answer, or the model on all tokens, or neither; see `failed`.
        score: mean, None where the data set has no references.
        change: score minus the full model's, with its paired interval; None for `none` itself.
        agreement: share of answers equal to the full model's.
        tokens, tokens_mean: visual tokens entering the decoder, and on average over its layers.
        full_tokens: visual tokens that the pictures have.
        by_layer: visual tokens in each decoder layer.
        prefill_flops, kv_bytes: means.
        encoder_ms, selection_ms, prefill_ms, decode_ms, memory_bytes: medians.
        recall: mean share of the patches under the answer's regions that are present.
        by_topic: score by kind of question.
        refusal: why this arm cannot run; the figures are then NaN or None.
    """

    method: str
    budget: str
    examples: int = 0
    seeds: int = 0
    failed: int = 0
    score: float | None = None
    change: Interval | None = None
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
    refusal: str | None = None

    @property
    def is_full(self) -> bool:
        """Whether this is the model on all of its tokens."""
        return self.method == FULL

    def __str__(self) -> str:
        return f"{self.method} at {self.budget}" if self.budget else self.method


@dataclass(frozen=True)
class Change:
    """An answer that differs from the full model's."""

    result: Result
    full: Result

    @property
    def verdict(self) -> str:
        """``lost``, ``gained`` or ``other`` (both right, both wrong, or no reference)."""
        before, after = self.full.score, self.result.score
        if before is None or after is None or before == after:
            return "other"
        return "lost" if after < before else "gained"


def summarise(results: Results) -> tuple[Row, ...]:
    """The rows of a comparison: `none` first, then the arms in the order in which they were planned."""
    arms: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results.results:
        arms[result.method, result.budget].append(result)
    full = {r.item: r for r in arms.get((FULL, ""), [])}
    order = planned(results)
    failures = {arm: _failures(results, arm) for arm in order}
    rows = [_row(method, budget, found, full) for (method, budget), found in arms.items()]
    rows += [Row(r.method, r.budget, refusal=r.reason) for r in results.refusals]
    missing = [arm for arm in order if failures[arm] and arm not in {(r.method, r.budget) for r in rows}]
    rows += [Row(*arm, refusal=_commonest(failures[arm])) for arm in missing]
    lost = {item for item in {f.item for f in failures.get((FULL, ""), ())} if item not in full}
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


def _failures(results: Results, arm: tuple[str, str]) -> list[Failure]:
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


def planned(results: Results) -> dict[tuple[str, str], int]:
    """Rank of each arm: by run, as planned."""
    plans = [arm for run in results.runs for arm in run.plan["arms"]]
    seen = [(FULL, ""), *plans, *((r.method, r.budget) for r in results.results)]
    return {arm: i for i, arm in enumerate(dict.fromkeys(seen))}


def changes(results: Results) -> dict[tuple[str, str], list[Change]]:
    """For each arm the answers that differ from the full model's (first seed of a method that draws lots)."""
    full = {r.item: r for r in results.results if r.method == FULL}
    found: dict[tuple[str, str], list[Change]] = {}
    for result in results.results:
        if result.method == FULL or result.seed or result.item not in full:
            continue
        differing = found.setdefault((result.method, result.budget), [])
        if not _same(result, full[result.item]):
            differing.append(Change(result, full[result.item]))
    order = planned(results)
    return {arm: found[arm] for arm in sorted(found, key=lambda a: order[a])}


def _row(method: str, budget: str, results: Sequence[Result], full: dict[str, Result]) -> Row:
    paired = [r for r in results if r.item in full]
    if not paired:
        return Row(
            method, budget, refusal="no example has been answered both by this arm and on all tokens yet"
        )
    by_item: dict[str, list[Result]] = defaultdict(list)
    for result in paired:
        by_item[result.item].append(result)
    scored = {e: _mean(r.score for r in rs) for e, rs in by_item.items() if full[e].score is not None}
    scores = {e: s for e, s in scored.items() if s is not None}
    change = None
    if method != FULL and scores:
        # Seeds are pooled per example first: an interval over pictures, not over draws.
        difference = [s - float(full[e].score or 0) for e, s in scores.items()]
        change = paired_interval(difference, [full[e].picture for e in scores])
    topics: dict[str, list[float]] = defaultdict(list)
    for example, score in scores.items():
        topics[full[example].topic].append(score)
    layers = zip(*(r.by_layer for r in paired), strict=False)
    return Row(
        method=method,
        budget=budget,
        examples=len(by_item),
        seeds=len({r.seed for r in paired}),
        score=_mean(scores.values()),
        change=change,
        agreement=_mean(float(_same(r, full[r.item])) for r in paired),
        tokens=_mean(r.tokens for r in paired),
        tokens_mean=_mean(r.tokens_mean for r in paired),
        full_tokens=_mean(r.full_tokens for r in paired),
        by_layer=tuple(statistics.fmean(layer) for layer in layers),
        prefill_flops=_mean(r.prefill_flops for r in paired),
        kv_bytes=_mean(r.kv_bytes for r in paired),
        encoder_ms=_median(paired, lambda r: r.encoder_ms),
        selection_ms=_median(paired, lambda r: r.selection_ms),
        prefill_ms=_median(paired, lambda r: r.prefill_ms),
        decode_ms=_median(paired, lambda r: r.decode_ms),
        memory_bytes=_median(paired, lambda r: r.memory_bytes),
        recall=_mean(r.recall for r in paired),
        by_topic={topic: statistics.fmean(values) for topic, values in sorted(topics.items()) if topic},
    )


def _same(result: Result, full: Result) -> bool:
    return normalise_answer(result.answer) == normalise_answer(full.answer)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def _median(results: Sequence[Result], of: Callable[[Result], float | None]) -> float | None:
    known = [v for r in results if (v := of(r)) is not None]
    return statistics.median(known) if known else None
