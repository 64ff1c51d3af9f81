"""A comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tokenry.bench.columns import COLUMNS, interval
from tokenry.bench.results import Results
from tokenry.bench.summary import Row, nothing_ran, refused, summarise

_NARROW = frozenset(
    {"score", "change", "agreement", "recall", "tokens_mean", "prefill_flops", "prefill_ms", "selection_ms"}
)


def as_table(results: Results, *, wide: bool = True) -> Group:
    """Every row with its figures, arms that cannot run (first of all if none can), and the circumstances.

    Args:
        results: what was measured.
        wide: all columns, or only those that fit on a hundred characters.
    """
    rows = summarise(results)
    done = [r for r in rows if r.refusal is None]
    columns = [
        c for c in COLUMNS if (wide or c.name in _NARROW) and any(c.value(r) is not None for r in done)
    ]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("budget", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.label, justify="right", no_wrap=True)
        if column.name == "change":
            table.add_column("95 % interval", justify="right", no_wrap=True)
    for i, row in enumerate(done):
        cells = [Text(row.method), Text(row.budget)]
        for column in columns:
            cells.append(Text(column.of(row), style=_style(row) if column.name == "change" else ""))
            if column.name == "change":
                cells.append(Text(interval(row), style="dim"))
        last = i + 1 == len(done) or done[i + 1].method != row.method
        table.add_row(*cells, style="bold" if row.is_full else "", end_section=last)
    notes = [Text(str(one), style="yellow") for one in refused(rows)]
    end = Text(footer(results, done), style="dim")
    if (failure := nothing_ran(rows)) is None:
        return Group(table, *notes, Text(), end)
    # Said first: what follows is a table with one line, and looks like a result.
    return Group(Text(failure, style="bold red"), *notes, Text(), table, Text(), end)


def footer(results: Results, rows: Sequence[Row]) -> str:
    """The circumstances in one paragraph."""
    run = results.runs[-1]
    facts = run.facts
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    load = "not known" if run.load is None else f"{run.load:.2f} per core"
    return (
        f"{max((r.examples for r in rows), default=0)} questions ({facts['data']}); {facts['model']}, "
        f"{facts['dtype']}, {facts['attention']} attention, {facts['device']}, {facts['threads']} threads; "
        f"{facts['machine']}, load {load}; position ids: {facts['positions']}; "
        f"{versions}. Score, agreement and recall in percent; intervals are paired with the full model."
    )


def _style(row: Row) -> str:
    """Red for a certain loss, green for none."""
    if row.change is None:
        return ""
    return "red" if row.change.high < 0 else "green" if row.change.low >= 0 else ""
