"""The columns of a comparison: what they are called, how they are written, which way is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tokenry.bench.summary import Row

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        name: as in `Row`; how the command line and `tune` call it.
        label: heading.
        value: the figure, for sorting; None where there is none.
        text: as it is written.
        help: what it means, in one sentence.
        is_cost: whether less of it is better.
    """

    name: str
    label: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    help: str
    is_cost: bool = False

    def of(self, row: Row) -> str:
        """The figure of a row as text."""
        value = self.value(row)
        return MISSING if value is None else self.text(value)


def percent(value: float) -> str:
    """A share as a percentage with one decimal, without its sign."""
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference of shares in points, with its sign (a true minus)."""
    return f"{100 * value:+.1f}".replace("-", "−")


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


COLUMNS: tuple[Column, ...] = (
    Column("score", "score", lambda r: r.score, percent, "Mean score in percent (exact match by default)."),
    Column(
        "change", "vs full", lambda r: r.change.mean if r.change else None, signed,
        "Score minus the full model's, in points, with a paired 95 % bootstrap interval over pictures.",
    ),
    Column("agreement", "same answer", lambda r: r.agreement, percent, "Answers equal to the full model's, percent."),
    Column(
        "recall", "object recall", lambda r: r.recall, percent,
        "Share of the patches the answer depends on that are still present, averaged over the decoder's layers "
        "(a merged patch counts as present).",
    ),
    Column("tokens", "tokens in", lambda r: r.tokens, number, "Visual tokens entering the language model.", True),
    Column(
        "tokens_mean", "tokens, mean", lambda r: r.tokens_mean, number,
        "Visual tokens per decoder layer, averaged over the layers.", True,
    ),
    Column("prefill_flops", "prefill FLOPs", lambda r: r.prefill_flops, flops, "Analytic, decoder only.", True),
    Column(
        "prefill_ms", "prefill ms", lambda r: r.prefill_ms, milliseconds,
        "Median time of the first forward pass of the language side, selection included.", True,
    ),
    Column(
        "selection_ms", "selection ms", lambda r: r.selection_ms, milliseconds,
        "Median time spent choosing tokens; part of prefill.", True,
    ),
    Column(
        "encoder_ms", "encoder ms", lambda r: r.encoder_ms, milliseconds,
        "Median time of the vision side; run once per picture and shared by all methods.", True,
    ),
    Column(
        "decode_ms", "ms per token", lambda r: r.decode_ms, milliseconds,
        "Median time of a forward pass after the first.", True,
    ),
    Column("kv_bytes", "KV cache", lambda r: r.kv_bytes, size, "Key-value cache after prefill.", True),
    Column(
        "memory_bytes", "peak memory", lambda r: r.memory_bytes, size,
        "Median peak while answering: CUDA allocator, or resident set of the process.", True,
    ),
)  # fmt: skip

COSTS: dict[str, Column] = {c.name: c for c in COLUMNS if c.is_cost}


def interval(row: Row) -> str:
    """The paired interval of a row in points, "[−4.0, +1.0]"."""
    return f"[{signed(row.change.low)}, {signed(row.change.high)}]" if row.change else ""
