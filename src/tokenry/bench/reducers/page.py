"""What the page of a report shows, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tokenry.bench.charts.canvas import MARKERS, Canvas
from tokenry.bench.reducers import plots
from tokenry.bench.reducers.arms import BASELINES, FULL
from tokenry.bench.reducers.choose import safest
from tokenry.bench.reducers.columns import COLUMNS, COSTS, TableColumn, bracket, number, percent, signed
from tokenry.bench.reducers.headline import headline, pick
from tokenry.bench.reducers.overlay import decode_picture, has_grid, svg_overlay
from tokenry.bench.reducers.plots import Style
from tokenry.bench.reducers.results import ArmResult, Results, StoredPicture, metric_name
from tokenry.bench.reducers.summary import (
    Change,
    Row,
    changes,
    failed,
    refused,
    same_choice,
    summarise,
    warnings,
)
from tokenry.bench.stats import Interval
from tokenry.data.questions.examples import normalise_answer
from tokenry.tokens import InputError

AXES = ("tokens_mean", "prefill_flops", "prefill_ms")
"""Costs that score is drawn against."""
_MAIN = ("score", "change", *(f"vs_{name}" for name in BASELINES), "tokens", "prefill_ms")
"""Columns of the table that are there at once; the others come at the press of a button."""
_COUNTS = ("correct", "scored")
"""Columns that stand beside the score."""
_LISTED = 40
"""Changed answers listed per method and budget; the rest is counted."""


def render(results: Results) -> str:
    """The page as HTML text."""
    rows = summarise(results)
    style = plots.styles([r for r in rows if r.refusal is None])
    run = results.runs[-1]
    full = next((r for r in rows if r.is_full), None)
    columns = [c for c in COLUMNS if c.name not in _COUNTS and any(c.value(r) is not None for r in rows)]
    env = Environment(
        loader=PackageLoader("tokenry.bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    loads = [r.load for r in results.runs if r.load is not None]
    return env.get_template("report.html.jinja").render(
        facts=run.facts,
        metric=metric_name(run.facts),
        runs=results.runs,
        load=" to ".join(dict.fromkeys(f"{load:.2f}" for load in (min(loads), max(loads))))
        if loads
        else "not known",
        examples=max(row.examples for row in rows),
        pictures_total=run.plan.get("pictures"),
        seeds=run.plan.get("seeds"),
        skipped=results.skipped,
        other=results.other,
        tiles=_tiles(rows, full),
        verdict=headline(rows),
        warnings=warnings(results, rows),
        same_choice=same_choice(results),
        charts=_charts(rows),
        legend=[{"method": m, "swatch": _swatch(s)} for m, s in style.items() if m != FULL],
        columns=columns,
        main=_MAIN,
        rows=[_table_row(row, style, columns, _scale(rows)) for row in rows if row.refusal is None],
        refused=refused(rows),
        failed=failed(results),
        left_out=run.plan.get("left_out", []),
        topics=_topics(rows, style),
        layers=_layers(rows, style),
        gallery=_gallery(results, rows, style),
        changes=_changes(results, style),
    )


def _tiles(rows: Sequence[Row], full: Row | None) -> list[tuple[str, str]]:
    """The figures that a reader wants first, each with what it is."""
    if full is None:
        return []
    whole = f"on all {full.full_tokens or 0:.0f} visual tokens"
    if full.score is None:
        return [("no references", f"so there is no score {whole}")]
    tiles = [(f"{percent(full.score)} %", f"score {whole}: {_counts(full)}")]
    picked = pick(rows)
    best = picked[0] if picked else safest(rows)
    if best is None or best.sure is None:
        return tiles
    tokens = f"{best.tokens_mean or 0:.0f} tokens per layer" + ("" if picked else ", the safest")
    lost = (
        f"{best.outcomes.lost} lost, {best.outcomes.gained} gained of {best.scored}" if best.outcomes else ""
    )
    failed = f", {best.failed} not answered" if best.failed else ""
    # The row is shown because it came out best: an interval by itself would flatter it.
    tiles.append(
        (
            _points(best.sure),
            f"{best}, {tokens}, against all tokens: {lost}{failed}; 95 % interval {bracket(best.sure)}, for all arms "
            "together",
        )
    )
    tiles += [
        (
            _points(r.sure),
            f"{best.method} against {r.name} at the same budget ({r.tokens_mean:.0f} tokens per layer): 95 % interval "
            f"{bracket(r.sure)}, for all arms together",
        )
        for r in best.against
    ]
    if best.prefill_ms and full.prefill_ms:
        before, after = COSTS["prefill_ms"].of(full), COSTS["prefill_ms"].of(best)
        chosen = f"of which {COSTS['selection_ms'].of(best)} ms choose tokens"
        ratio = full.prefill_ms / best.prefill_ms
        speed = f"{ratio:.2f}×" if ratio >= 1 else f"{1 / ratio:.2f}×"
        how = "faster" if ratio >= 1 else "slower"
        tiles.append((speed, f"{how} prefill here: {before} → {after} ms, {chosen}"))
    return tiles


def _points(interval: Interval) -> str:
    return f"{signed(interval.mean)} points"


def _charts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    charts = []
    for name in AXES:
        wide, narrow = plots.tradeoff(rows, name), plots.tradeoff(rows, name, width=350, height=360)
        if wide is not None and narrow is not None:
            label = f"Score against {COSTS[name].label}"
            charts.append(
                {
                    "name": name,
                    "label": COSTS[name].label,
                    "wide": wide.svg(label),
                    "narrow": narrow.svg(label),
                }
            )
    return charts


def _swatch(style: Style) -> Markup:
    canvas = Canvas(34, 16)
    canvas.line([(2, 8), (32, 8)], style.colour, width=2, dash=style.dash)
    canvas.marker((17, 8), style.marker, style.colour, radius=5)
    return canvas.svg("")


def _scale(rows: Sequence[Row]) -> float:
    """The largest difference that an interval in the table reaches."""
    intervals = [found for r in rows for c in COLUMNS if (found := c.interval(r)) is not None]
    return max((max(abs(i.low), abs(i.high)) for i in intervals), default=1.0) or 1.0


def _table_row(
    row: Row, style: dict[str, Style], columns: Sequence[TableColumn], scale: float
) -> dict[str, Any]:
    return {
        "row": row,
        "swatch": _dot(style[row.method]) if row.method in style else Markup(),
        "cells": [
            {
                "value": column.value(row),
                "text": column.of(row),
                "aside": _counts(row) if column.name == "score" else column.bounds(row),
                "glyph": _glyph(row.change, row.sure, scale) if column.name == "change" else Markup(),
                "more": column.name not in _MAIN,
            }
            for column in columns
        ],
    }


def _counts(row: Row) -> str:
    """How many answers are right, "170 of 200"."""
    return "" if row.score is None else f"{number(row.score * row.scored)} of {row.scored}"


def _dot(style: Style) -> Markup:
    canvas = Canvas(14, 14)
    canvas.area([(7 + 5 * x, 7 + 5 * y) for x, y in MARKERS[style.marker % len(MARKERS)]], style.colour)
    return canvas.svg("")


def _glyph(interval: Interval | None, sure: Interval | None, scale: float) -> Markup:
    """A paired interval, drawn: no difference is the upright line, loss is to its left; coloured where it is sure."""
    if interval is None or sure is None:
        return Markup()
    canvas = Canvas(64, 14)
    zero = 44.0  # losses are what there is to see

    def x(value: float) -> float:
        return max(2.0, min(62.0, zero + 42 * value / scale))

    colour = {-1: "#cf3f5a", 0: "muted", 1: "#2a9461"}[sure.sign]
    canvas.line([(zero, 0), (zero, 14)], "muted", opacity=0.6)
    canvas.line([(x(interval.low), 7), (x(interval.high), 7)], colour, width=3)
    canvas.line([(x(interval.mean), 2), (x(interval.mean), 12)], "ink", width=2)
    return canvas.svg("")


def _topics(rows: Sequence[Row], style: dict[str, Style]) -> dict[str, Any] | None:
    """Scores by kind of question, and how they compare with the full model's."""
    names = sorted({t for r in rows for t in r.by_topic})
    if len(names) < 2:
        return None
    return {
        "names": names,
        "rows": [
            {
                "row": row,
                "swatch": _dot(style[row.method]),
                "cells": [(row.by_topic.get(n), max(0.0, row.lost_by_topic.get(n, 0.0))) for n in names],
            }
            for row in rows
            if row.by_topic
        ],
    }


def _layers(rows: Sequence[Row], style: dict[str, Style]) -> list[dict[str, Any]]:
    """Per method, tokens in each layer at each budget."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        canvas = (
            plots.layers(row, style[row.method].colour) if row.method in style and not row.is_full else None
        )
        if canvas is not None:
            counts = ", ".join(f"{n:.0f}" for n in row.by_layer)
            label = f"{row}: {counts} tokens in layers 0 to {len(row.by_layer) - 1}"
            cell = {
                "budget": row.budget,
                "chart": canvas.svg(label),
                "mean": f"{row.tokens_mean or 0:.0f}",
                "title": label,
            }
            found.setdefault(row.method, []).append(cell)
    return [{"method": m, "swatch": _dot(style[m]), "cells": cells} for m, cells in found.items()]


def _gallery(results: Results, rows: Sequence[Row], style: dict[str, Style]) -> list[dict[str, Any]]:
    """The pictures with their overlays, by method and budget."""
    full = {r.item: r for r in results.results if r.method == FULL}
    gallery: list[dict[str, Any]] = []
    for picture, example, shown in traced(results):
        if example not in full or not readable(picture):
            continue
        name = f"picture-{len(gallery)}"
        arms = {(r.method, r.budget): r for r in shown}
        methods: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            result = arms.get((row.method, row.budget))
            if result is not None and result.trace is not None and has_grid(result.trace):
                label = f"{row}: {result.tokens} of {result.full_tokens} tokens"
                methods.setdefault(row.method, []).append(
                    {"result": result, "svg": svg_overlay(result.trace, name, label), "mark": _mark(result)}
                )
        cards = [{"method": m, "swatch": _dot(style[m]), "cells": cells} for m, cells in methods.items()]
        width, height = decode_picture(picture.data).size
        gallery.append(
            {
                "id": name,
                "picture": picture,
                "full": full[example],
                "mark": _mark(full[example]),
                "ratio": f"{width / height:.4f}",
                "boxes": picture.regions.get(full[example].example, []),
                "cards": cards,
            }
        )
    return gallery


def traced(results: Results) -> list[tuple[StoredPicture, str, list[ArmResult]]]:
    """Pictures with the results that have a trace, by example."""
    found: dict[str, list[ArmResult]] = {}
    for result in results.results:
        if result.trace is not None and result.picture in results.pictures:
            found.setdefault(result.item, []).append(result)
    return [(results.pictures[traced[0].picture], item, traced) for item, traced in found.items()]


def readable(picture: StoredPicture) -> bool:
    try:
        decode_picture(picture.data)
    except InputError:
        return False
    return True


def _mark(result: ArmResult) -> str:
    """``right``, ``wrong``, or nothing where there is no reference."""
    return "" if result.score is None else "right" if result.score >= 0.5 else "wrong"


def _changes(results: Results, style: dict[str, Style]) -> list[dict[str, Any]]:
    order = {"lost": 0, "gained": 1, "other": 2}
    asked = dict.fromkeys(changes(results), 0)
    for result in results.results:
        if (result.method, result.budget) in asked and result.seed == 0:
            asked[result.method, result.budget] += 1
    found = []
    for (method, budget), differing in changes(results).items():
        ranked = sorted(differing, key=lambda c: order[c.verdict])
        found.append(
            {
                "method": method,
                "budget": budget,
                "swatch": _dot(style[method]),
                "asked": asked[method, budget],
                "changed": len(differing),
                "counts": {v: sum(c.verdict == v for c in differing) for v in order},
                "listed": [_change(c) for c in ranked[:_LISTED]],
                "more": max(0, len(differing) - _LISTED),
            }
        )
    return found


def _change(change: Change) -> dict[str, str]:
    truth = change.full.truth
    return {
        "verdict": change.verdict,
        "question": change.full.question,
        "full": change.full.answer,
        "new": change.result.answer,
        "truth": "" if truth is None else normalise_answer(truth),
        "picture": change.full.picture,
    }
