"""The columns of a comparison: what they are called, how they are written, which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenry.bench.reducers.arms import BASELINES
from tokenry.bench.reducers.summary import Rivalry, Row
from tokenry.bench.stats import Interval

MISSING = "–"


@dataclass(frozen=True)
class TableColumn:
    """One figure of a row.

    Attributes:
        name: as in `Row`; how the command line and `tune` call it.
        label: heading.
        value: the figure, for sorting; None where there is none.
        text: as it is written.
        help: what it means, in one sentence.
        is_cost: whether less of it is better.
        interval: what stands beside the figure.
        sure: the interval that its colour stands on: that for all rows together.
    """

    name: str
    label: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    help: str
    is_cost: bool = False
    interval: Callable[[Row], Interval | None] = lambda row: None
    sure: Callable[[Row], Interval | None] = lambda row: None

    def of(self, row: Row) -> str:
        """The figure of a row as text, without its interval."""
        value = self.value(row)
        return MISSING if value is None else self.text(value)

    def bounds(self, row: Row) -> str:
        """The interval of the figure in points, "[−4.0, +1.0]"; empty where it has none."""
        found = self.interval(row)
        return "" if found is None else bracket(found)


def percent(value: float) -> str:
    """A share as a percentage with one decimal, without its sign."""
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in points, with its sign (a true minus)."""
    return f"{100 * value:+.1f}".replace("-", "−")


def bracket(interval: Interval) -> str:
    """An interval in points, "[−4.0, +1.0]"."""
    return f"[{signed(interval.low)}, {signed(interval.high)}]"


def number(value: float) -> str:
    """A count: whole where it is whole, one decimal otherwise."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 or value >= 1000 else f"{value:,.1f}"


def milliseconds(value: float) -> str:
    """Three significant digits, at most two decimals."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def magnitude(value: float, units: tuple[str, ...], step: float = 1000) -> str:
    """A large number in the unit that leaves 1 to 3 digits before the point."""
    place = 0
    while abs(value) >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    digits = 0 if place == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {units[place]}"


def flops(value: float) -> str:
    """Operations as MFLOP, GFLOP, TFLOP."""
    return magnitude(value, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def size(value: float) -> str:
    """Bytes as KiB, MiB, GiB."""
    return magnitude(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def _versus(baseline: str) -> TableColumn:
    """The column of the differences from a baseline."""

    def rivalry(row: Row) -> Rivalry | None:
        return row.versus(baseline)

    return TableColumn(
        f"vs_{baseline}", f"vs {baseline}", lambda r: v.change.mean if (v := rivalry(r)) else None, signed,
        f"Score minus that of {baseline} at the same budget, in points, with its paired, pointwise 95 % interval. "
        "Methods that act in a late layer have more tokens before it: see mean tokens.",
        interval=lambda r: v.change if (v := rivalry(r)) else None,
        sure=lambda r: v.sure if (v := rivalry(r)) else None,
    )  # fmt: skip


COLUMNS: tuple[TableColumn, ...] = (
    TableColumn("score", "score", lambda r: r.score, percent, "Mean score in percent."),
    TableColumn(
        "correct", "right", lambda r: None if r.score is None else r.score * r.scored, number,
        "The sum of the scores: answers that are right, where scores are 0 or 1.",
    ),
    TableColumn(
        "scored", "of", lambda r: r.scored if r.score is not None else None, number,
        "Questions with a score: those with a reference, answered both by this arm and on all tokens.",
    ),
    TableColumn(
        "change", "vs full", lambda r: r.change.mean if r.change else None, signed,
        "Score minus the full model's, in points, with its paired 95 % interval over pictures. The interval is "
        "pointwise: among twenty such, one is wrong by chance.",
        interval=lambda r: r.change,
        sure=lambda r: r.sure,
    ),
    TableColumn(
        "lost", "lost", lambda r: r.outcomes.lost if r.outcomes else None, number,
        "Questions on which the score fell below the full model's; of several seeds, their mean.",
    ),
    TableColumn(
        "gained", "gained", lambda r: r.outcomes.gained if r.outcomes else None, number,
        "Questions on which the score rose above the full model's.",
    ),
    *(_versus(name) for name in BASELINES),
    TableColumn(
        "agreement", "same answer", lambda r: r.agreement, percent, "Answers equal to the full model's, percent."
    ),
    TableColumn(
        "recall", "object recall", lambda r: r.recall, percent,
        "Share of the patches the answer depends on that are still present, averaged over the decoder's layers "
        "(a merged patch counts as present).",
    ),
    TableColumn("tokens", "tokens in", lambda r: r.tokens, number, "Visual tokens entering the language model.", True),
    TableColumn(
        "tokens_mean", "mean tokens", lambda r: r.tokens_mean, number,
        "Visual tokens per decoder layer, averaged over the layers.", True,
    ),
    TableColumn("prefill_flops", "prefill FLOPs", lambda r: r.prefill_flops, flops, "Analytic, decoder only.", True),
    TableColumn(
        "prefill_ms", "prefill ms", lambda r: r.prefill_ms, milliseconds,
        "Median time of the first forward pass of the language side, selection included.", True,
    ),
    TableColumn(
        "selection_ms", "selection ms", lambda r: r.selection_ms, milliseconds,
        "Median time spent choosing tokens; part of prefill.", True,
    ),
    TableColumn(
        "encoder_ms", "encoder ms", lambda r: r.encoder_ms, milliseconds,
        "Median time of the vision side; run once per picture and shared by all methods.", True,
    ),
    TableColumn(
        "decode_ms", "ms per token", lambda r: r.decode_ms, milliseconds,
        "Median time of a forward pass after the first.", True,
    ),
    TableColumn("kv_bytes", "KV cache", lambda r: r.kv_bytes, size, "Key-value cache after prefill.", True),
    TableColumn(
        "memory_bytes", "peak memory", lambda r: r.memory_bytes, size,
        "Median peak while answering: CUDA allocator, or resident set of the process.", True,
    ),
)  # fmt: skip

COSTS: dict[str, TableColumn] = {c.name: c for c in COLUMNS if c.is_cost}
