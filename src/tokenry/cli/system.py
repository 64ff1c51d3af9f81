"""One system of the catalogue on a screen: what it is, how it is used, what its reproduction found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tokenry.catalog import results
from tokenry.catalog.card import STATE_MEANINGS, Card
from tokenry.catalog.docstrings import Section, docstring, split
from tokenry.catalog.results import ReportedCriterion, Result

STATE_STYLES = {"done": "green", "partly": "yellow", "open": "dim"}
VERDICT_STYLES = {"shown": "green", "partly": "yellow", "not shown": "red"}
_LABEL = 28  # columns: longer names of measurements wrap, so that 80 leave room for what was measured
_WIDE = 100  # columns: from here on a criterion has room for its interval


def brief(card: Card, result: Result | None, width: int) -> Group:
    """A system in one screen.

    Args:
        card: The system.
        result: Its committed reproduction, if there is one.
        width: Columns of the terminal.
    """
    parts = _head(card, with_caution=result is None)
    if result is not None:
        decisive = [criterion for criterion in result.criteria if criterion.decisive]
        parts += _verdict(card, result)
        parts.append(_criteria(decisive, intervals=width >= _WIDE))
        if further := len(result.criteria) - len(decisive):
            parts.append(Text(f"and {further} more that the verdict does not depend on", style="dim"))
        parts += _caution(card)
    elif card.state != "open" and results.checkout() is None:
        parts.append(Text("\nIts reproduction is in tokenry's repository, not in an installed package."))
    if card.entry_point is not None:
        parts.append(Text(f"\nAll of it: tokenry info {card.slug} --full"))
    return Group(*parts)


def full(card: Card, result: Result | None, console: Console) -> Group:
    """All that is known of a system: its docstring and everything that was measured, too."""
    parts = _head(card, with_caution=result is None)
    if card.entry_point is not None:
        parts += _documentation(docstring(card.entry_point))
    if result is not None:
        parts += _verdict(card, result)
        parts.append(_criteria(result.criteria, intervals=True))
        parts += _caution(card)
        for label, records in result.tables():
            if label != "criteria":
                parts += [Text(f"\n{label}", style="bold"), _records(records, console)]
        told = ("system", "verdict", "claim")
        rows = [(label, value) for label, value in result.rows() if label not in told]
        parts += [Text("\nwhat was run", style="bold"), _pairs(rows)]
    return Group(*parts)


def _head(card: Card, *, with_caution: bool) -> list[RenderableType]:
    """What the card says; its caution belongs beside a verdict, if there is one (an installed wheel has none)."""
    paper = Text(f"{card.title} ({card.venue or card.year})" if card.year else card.title)
    stage = f", stage {card.stage}" if card.stage else ""
    state = Text.assemble((card.state, STATE_STYLES[card.state]), f": {STATE_MEANINGS[card.state]}")
    facts: dict[str, str | Text | None] = {
        "room": f"{card.room}{stage}",
        "kind": f"{card.kind}, {'trained' if card.trained else 'training-free'}",
        "state": state,
        "command": card.shell,
        "class" if _is_class(card) else "function": card.entry_point,
        "notes": card.notes,
        "caution": card.caution if with_caution else None,
    }
    return [
        Text(card.name, style="bold"),
        paper,
        *([Text(card.link, style="cyan")] if card.link else []),
        Text(f"\n{card.summary}.\n"),
        _pairs((label, value) for label, value in facts.items() if value),
        *([Text(f"\n{card.example.rstrip()}", style="green")] if card.example else []),
    ]


def _is_class(card: Card) -> bool:
    return card.entry_point is not None and card.entry_point.partition(":")[2][0].isupper()


def _verdict(card: Card, result: Result) -> list[RenderableType]:
    verdict = (result.verdict, VERDICT_STYLES[result.verdict])
    line = Text.assemble(
        "\n", ("reproduction: ", "bold"), verdict, f" (again: tokenry reproduce {card.slug})"
    )
    return [line, Text(f"claim: {result.values['claim']}")]


def _caution(card: Card) -> list[RenderableType]:
    return [Text.assemble(("caution: ", "bold yellow"), card.caution)] if card.caution else []


def _criteria(criteria: Sequence[ReportedCriterion], *, intervals: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("criterion", ratio=1)
    intervals = intervals and any(criterion.interval for criterion in criteria)
    for heading in ("bound", "measured", *(["95 % interval"] if intervals else []), "holds"):
        table.add_column(heading, no_wrap=True)
    for criterion in criteria:
        table.add_row(
            Text(criterion.name),
            criterion.bound,
            criterion.measured,
            *([criterion.interval] if intervals else []),
            Text("yes", style="green") if criterion.holds else Text("no", style="red"),
        )
    return table


def _documentation(text: str) -> Iterator[RenderableType]:
    prose, sections = split(text)
    yield from (Text(), Markdown(prose))
    for section in sections:
        yield Text(f"\n{section.title}", style="bold")
        yield _entries(section)


def _entries(section: Section) -> RenderableType:
    if [name for name, _ in section.entries] == [""]:
        return Padding(Markdown(section.entries[0][1]), (0, 0, 0, 2))
    return _pairs((name, Markdown(about)) for name, about in section.entries)


def _pairs(rows: Iterable[tuple[str, str | RenderableType]]) -> Table:
    """Labels and what belongs to them; text is taken as it is, square brackets are not markup here."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", max_width=_LABEL)
    table.add_column(ratio=1)
    for label, value in rows:
        table.add_row(Text(label), Text(value) if isinstance(value, str) else value)
    return table


def _records(records: Sequence[Mapping[str, Any]], console: Console) -> Table:
    """Records as a table, or, where their columns do not fit side by side, one below the other."""
    columns = list(dict.fromkeys(column for record in records for column in record))
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(Text(column))
    for record in records:
        table.add_row(*(Text(results.text(record[column]) if column in record else "") for column in columns))
    boundless = console.options.update_width(1_000_000)
    if Measurement.get(console, boundless, table).minimum <= console.width:  # no word has to be broken
        return table
    first, *others = columns
    return _pairs(
        (results.text(record[first]), results.text({c: record[c] for c in others if c in record}))
        for record in records
    )
