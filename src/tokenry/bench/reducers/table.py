"""A comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tokenry.bench.reducers.arms import BASELINES
from tokenry.bench.reducers.columns import COLUMNS, TableColumn
from tokenry.bench.reducers.headline import headline
from tokenry.bench.reducers.results import Results, metric_name
from tokenry.bench.reducers.summary import Row, failed, nothing_ran, refused, same_choice, summarise, warnings

_RIVALS = tuple(f"vs_{name}" for name in BASELINES)
"""Columns that get a table of their own where they do not fit."""
_NEEDED = ("score", "change", "tokens", "prefill_ms")
_WELCOME = (
    ("correct", "scored"),
    *((name,) for name in _RIVALS),
    ("lost", "gained"),
    ("agreement",),
    ("tokens_mean",),
    ("prefill_flops",),
    ("recall",),
)
"""Columns of a narrow terminal: those that come first, and groups that are taken whole, in this order, if they fit."""
_GAP = 2
_REASONS = 5
"""Reasons for failures that are printed."""
_NAME = 12
"""Least width of the method's name, which is broken rather than let figures be squeezed."""


def as_table(results: Results, *, width: int | None = None, conclude: bool = True) -> Group:
    """Every row with its figures, arms that cannot run (first of all if none can), and the circumstances.

    Args:
        results: what was measured.
        width: of the terminal, in characters; columns that do not fit are left out, and named. None: all columns.
        conclude: whether to say which row to take; not where the caller has its own answer.
    """
    rows = summarise(results)
    done = [r for r in rows if r.refusal is None]
    known = [c for c in COLUMNS if any(c.value(r) is not None for r in done)]
    shown = known if width is None else _fitting(known, done, width)
    left = [c for c in known if c.name in _RIVALS and c not in shown]
    met = [r for r in done if any(c.value(r) is not None for c in left)]
    rivals = [] if width is None else _first(left, met, width)
    parts: list[RenderableType] = [_table(shown, done, width)]
    if rivals:
        shown += rivals
        parts += [Text(), _table(rivals, met, width)]
    if hidden := [c.label for c in known if c not in shown]:
        parts.append(Text(f"Not shown here: {', '.join(hidden)} (--wide, --csv, --json).", style="dim"))
    parts += [Text(str(one), style="yellow") for one in refused(rows)]
    parts += [Text(one, style="yellow") for one in warnings(results, rows)]
    parts += [Text(one, style="yellow") for one in _failures(results)]
    parts += [Text(one) for one in same_choice(results)]
    circumstances = Text(footer(results, done), style="dim")
    if (failure := nothing_ran(rows)) is not None:
        # Said first: what follows is a table with one line, and looks like a result.
        table, *notes = parts
        return Group(Text(failure, style="bold red"), *notes, Text(), table, Text(), circumstances)
    if conclude:
        parts += [Text(), Text(headline(rows), style="bold")]
    return Group(*parts, Text(), circumstances)


def _failures(results: Results) -> list[str]:
    """Questions that were not answered, by reason; a table has no room for all."""
    found = [f"Not answered: {one}" for one in failed(results)]
    more = len(found) - _REASONS
    return found if more <= 0 else [*found[:_REASONS], f"and {more} other reasons; the report has them."]


def _table(columns: Sequence[TableColumn], rows: Sequence[Row], width: int | None) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    room = None if width is None else width - _taken(columns, rows)
    names, budgets = _widest([r.method for r in rows], "method"), _widest([r.budget for r in rows], "budget")
    if room is not None and names + budgets + _GAP > room:
        budgets = min(budgets, max(len("budget"), room - _GAP - min(names, _NAME)))
        names = max(_NAME, room - _GAP - budgets)
    table.add_column("method", width=names, overflow="fold")
    table.add_column("budget", width=budgets, justify="right", overflow="fold")
    for column in columns:
        table.add_column(column.label, width=_width(column, rows), justify="right")
    for i, row in enumerate(rows):
        cells = [Text(row.method), Text(row.budget)]
        cells += [_cell(column, row) for column in columns]
        last = i + 1 == len(rows) or rows[i + 1].method != row.method
        table.add_row(*cells, style="bold" if row.is_full else "", end_section=last)
    return table


def _cell(column: TableColumn, row: Row) -> Text:
    cell = Text(column.of(row), style=_style(column, row))
    if bounds := column.bounds(row):
        cell.append(f" {bounds}", style="dim")
    return cell


def _fitting(columns: Sequence[TableColumn], rows: Sequence[Row], width: int) -> list[TableColumn]:
    """The columns that a terminal has room for, in their usual order."""
    names, budgets = _widest([r.method for r in rows], "method"), _widest([r.budget for r in rows], "budget")
    chosen = _first([c for c in columns if c.name in _NEEDED], rows, width)
    room = width - names - _GAP - budgets - _taken(chosen, rows)
    for group in _WELCOME:
        together = [c for c in columns if c.name in group]
        if (needed := _taken(together, rows)) <= room:
            chosen += together
            room -= needed
    return [c for c in columns if c in chosen]


def _first(columns: Sequence[TableColumn], rows: Sequence[Row], width: int) -> list[TableColumn]:
    """As many of the columns as fit beside a broken name, from the first: figures are left out rather than squeezed."""
    names, budgets = _widest([r.method for r in rows], "method"), _widest([r.budget for r in rows], "budget")
    room = width - min(names, _NAME) - _GAP - min(budgets, len("budget")) - _GAP
    return [c for i, c in enumerate(columns) if _taken(columns[: i + 1], rows) <= room]


def _taken(columns: Sequence[TableColumn], rows: Sequence[Row]) -> int:
    """Characters that several columns take."""
    return sum(_width(column, rows) + _GAP for column in columns)


def _width(column: TableColumn, rows: Sequence[Row]) -> int:
    """Characters that a column needs; its heading is broken between words."""
    return _widest([_cell(column, row).plain for row in rows], *column.label.split())


def _widest(texts: Sequence[str], *more: str) -> int:
    return max(map(cell_len, (*texts, *more)))


def footer(results: Results, rows: Sequence[Row]) -> str:
    """The circumstances in one paragraph."""
    run = results.runs[-1]
    facts = run.facts
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    threads = f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}"
    load = "not known" if run.load is None else f"{run.load:.2f} per core"
    return (
        f"{max((r.examples for r in rows), default=0)} questions ({facts['data']}); {facts['model']}, "
        f"{facts['dtype']}, {facts['attention']} attention, {facts['device']}, {threads}; "
        f"{facts['machine']}, load {load}; position ids: {facts['positions']}; scored by {metric_name(facts)}; "
        f"{versions}. Score, agreement and recall in percent, differences in points with paired 95 % intervals, each "
        "by itself. Coloured: holds with 95 % confidence for all rows of the column together, failures counted as lost."
    )


def _style(column: TableColumn, row: Row) -> str:
    """Red for less and green for more than what the column compares with, where it holds for all rows together."""
    found = column.sure(row)
    return "" if found is None else {-1: "red", 0: "", 1: "green"}[found.sign]
