"""The charts of a report: accuracy against cost, and tokens in each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenry.bench.charts.canvas import Canvas, Point
from tokenry.bench.charts.scales import PALETTE, apart, ticks
from tokenry.bench.reducers.arms import BASELINES, FULL
from tokenry.bench.reducers.columns import COSTS, TableColumn, bracket, percent
from tokenry.bench.reducers.summary import Row

_BASELINE_COLOUR = "#7a828c"


@dataclass(frozen=True)
class Style:
    """How one method is drawn, everywhere in a report."""

    colour: str
    marker: int
    dash: tuple[float, float] | None = None


def styles(rows: Sequence[Row]) -> dict[str, Style]:
    """A style for every method: baselines grey and dashed, all others coloured."""
    names = list(dict.fromkeys(r.method for r in rows if not r.is_full))
    others = list(dict.fromkeys(r.method for r in rows if not (r.is_full or r.is_baseline)))
    grey = list(dict.fromkeys([*BASELINES, *(n for n in names if n not in others)]))
    found = {n: Style(_BASELINE_COLOUR, i, (1.5, 3) if i % 2 else (5, 4)) for i, n in enumerate(grey)}
    found |= {n: Style(PALETTE[i % len(PALETTE)], i + len(grey)) for i, n in enumerate(others)}
    return {FULL: Style("ink", 0)} | {n: found[n] for n in names}


@dataclass(frozen=True)
class _Axes:
    """Where values land on the canvas."""

    left: float
    right: float
    top: float
    bottom: float
    x_max: float
    y_min: float
    y_max: float

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self.x_max

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.y_min) / (self.y_max - self.y_min)


def tradeoff(rows: Sequence[Row], cost: str, *, width: float = 1100, height: float = 460) -> Canvas | None:
    """Score (agreement, where there are no references) against a cost, one line per method.

    Vertical bars are the paired intervals of the difference from the full model. Points of equal or nearly
    equal cost are set a few pixels apart, in order, so that none hides another; all others stand at their cost.

    Args:
        rows: rows of a comparison.
        cost: a name in `COSTS`.
        width, height: pixels.

    Returns:
        The chart; None if no row has both a score and the cost.
    """
    column = COSTS[cost]
    placed = [r for r in rows if column.value(r) is not None and _height(r) is not None]
    if not placed:
        return None
    canvas = Canvas(width, height)
    axes = _axes(placed, column, width, height)
    _frame(
        canvas,
        axes,
        column,
        "score, %" if any(r.score is not None for r in placed) else "same answer as full, %",
    )
    full = next((r for r in placed if r.is_full), None)
    if full is not None:
        level = axes.y(_height(full) or 0)
        canvas.line([(axes.left, level), (axes.right, level)], "ink", width=1.2, dash=(7, 4), opacity=0.6)
        canvas.text((axes.left + 6, level - 6), "all tokens", size=11, colour="muted")
    found = styles(placed)
    placed.sort(key=lambda r: list(found).index(r.method))
    places = apart([axes.x(column.value(r) or 0) for r in placed], 9 if width > 600 else 3.4)
    for method, style in found.items():
        series = [(x, r) for x, r in zip(places, placed, strict=True) if r.method == method]
        _series(canvas, axes, column, series, style)
    return canvas


def _height(row: Row) -> float | None:
    return row.score if row.score is not None else row.agreement


def _bounds(row: Row) -> tuple[float, float] | None:
    """The paired interval, hung on the full model's score."""
    if row.change is None or row.score is None:
        return None
    full = row.score - row.change.mean
    return max(0.0, full + row.change.low), min(1.0, full + row.change.high)


def _axes(rows: Sequence[Row], column: TableColumn, width: float, height: float) -> _Axes:
    heights = [v for r in rows for v in (_height(r), *(_bounds(r) or ())) if v is not None]
    low, high = min(heights), max(heights)
    room = max(0.02, 0.06 * (high - low))
    return _Axes(
        left=44,
        right=width - 14,
        top=22,
        bottom=height - 44,
        x_max=1.06 * max(column.value(r) or 0 for r in rows) or 1.0,
        y_min=max(0.0, low - room),
        y_max=min(1.0, high) + room,
    )


def _frame(canvas: Canvas, axes: _Axes, column: TableColumn, label: str) -> None:
    for value in ticks(axes.y_min, axes.y_max, 6):
        y = axes.y(value)
        canvas.line([(axes.left, y), (axes.right, y)], "grid")
        canvas.text((axes.left - 8, y + 4), f"{100 * value:g}", size=12, colour="muted", anchor="end")
    for value in ticks(0, axes.x_max, 3 + int(canvas.width > 600) * 3):
        x = axes.x(value)
        canvas.line([(x, axes.bottom), (x, axes.bottom + 5)], "muted")
        # A label centred on the last tick may not leave the page.
        canvas.text(
            (min(x, axes.right - 24), axes.bottom + 20), column.text(value), colour="muted", anchor="middle"
        )
    canvas.line([(axes.left, axes.bottom), (axes.right, axes.bottom)], "muted")
    canvas.text(
        ((axes.left + axes.right) / 2, canvas.height - 6), column.label, size=12.5, anchor="middle", bold=True
    )
    canvas.text((4, 13), label, size=12.5, bold=True)


def _series(
    canvas: Canvas, axes: _Axes, column: TableColumn, placed: Sequence[tuple[float, Row]], style: Style
) -> None:
    """One method's points, each with the place along the axis at which it is drawn."""
    points = [((x, axes.y(_height(row) or 0)), row) for x, row in sorted(placed, key=lambda one: one[0])]
    method = placed[0][1].method
    if len(points) > 1:
        canvas.line(
            [p for p, _ in points], style.colour, width=1.8, dash=style.dash, opacity=0.75, series=method
        )
    for (x, _), row in points:
        if (bounds := _bounds(row)) is not None:
            ends = [(x, axes.y(b)) for b in bounds]
            canvas.line(ends, style.colour, width=1.6, opacity=0.55, series=method)
            for _, y in ends:
                canvas.line([(x - 3, y), (x + 3, y)], style.colour, width=1.6, opacity=0.55, series=method)
    for at, row in points:
        figure = f"{percent(_height(row) or 0)} %" + (f" {bracket(row.change)}" if row.change else "")
        title = f"{row}: {figure}, {column.of(row)} {column.label}"
        canvas.marker(
            at, style.marker, style.colour, radius=5 if canvas.width > 600 else 4, series=method, title=title
        )


def layers(row: Row, colour: str, *, width: float = 150, height: float = 56) -> Canvas | None:
    """Visual tokens in each decoder layer, as steps under the full model's count; None where nothing is known."""
    if not row.by_layer or not row.full_tokens:
        return None
    canvas = Canvas(width, height)
    base, top = height - 1.0, 3.0
    step = width / len(row.by_layer)
    canvas.line([(0, top), (width, top)], "muted", dash=(2, 3))
    outline: list[Point] = []
    for i, tokens in enumerate(row.by_layer):
        y = base - (base - top) * min(1.0, tokens / row.full_tokens)
        outline += [(i * step, y), ((i + 1) * step, y)]
    canvas.area([(0, base), *outline, (width, base)], colour, opacity=0.28)
    canvas.line(outline, colour, width=2)
    canvas.line([(0, base), (width, base)], "muted")
    return canvas


def with_legend(chart: Canvas, rows: Sequence[Row]) -> Canvas:
    """A chart with the names of its methods under it, for files that stand alone."""
    names = {m: s for m, s in styles(rows).items() if m != FULL}
    columns = max(1, int(chart.width // 240))
    canvas = Canvas(chart.width, chart.height + 16 + 22 * math.ceil(len(names) / columns), list(chart.shapes))
    for i, (method, style) in enumerate(names.items()):
        x, y = 48 + 240 * (i % columns), chart.height + 18 + 22 * (i // columns)
        canvas.line([(x, y), (x + 28, y)], style.colour, width=2, dash=style.dash)
        canvas.marker((x + 14, y), style.marker, style.colour)
        canvas.text((x + 36, y + 4), method)
    return canvas
