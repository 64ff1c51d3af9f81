"""`tokenry list` and `tokenry info`: the catalogue in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenry import catalog
from tokenry.catalog import results
from tokenry.catalog.card import Card
from tokenry.catalog.docstrings import docstring

_LABEL = 28  # columns: longer names of measurements wrap, so that 80 leave room for what was measured
_STATE_STYLE = {"done": "green", "partly": "yellow", "open": "dim"}


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command("list")(list_systems)
    app.command("info")(show_system)


def list_systems(
    room: Annotated[str | None, typer.Option(help=f"Only this room: {', '.join(catalog.ROOMS)}.")] = None,
    stage: Annotated[str | None, typer.Option(help=f"Only this stage: {', '.join(catalog.STAGES)}.")] = None,
    state: Annotated[str | None, typer.Option(help=f"Only this state: {', '.join(catalog.STATES)}.")] = None,
) -> None:
    """List the catalogued systems and how far each has come."""
    chosen = catalog.cards(room=room, stage=stage, state=state)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("system", no_wrap=True)
    for heading in ("room", "stage", "state"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does", ratio=1)
    for card in chosen:
        table.add_row(
            card.slug,
            card.room,
            card.stage or "",
            Text(card.state, style=_STATE_STYLE[card.state]),
            Text(card.summary),  # as it is: square brackets are not markup here
        )
    console = Console()
    console.print(table)
    done = sum(card.state == "done" for card in chosen)
    console.print(f"\n{len(chosen)} systems, {done} done; `tokenry info NAME` tells more about one.")


def show_system(
    slug: Annotated[
        str, typer.Argument(metavar="NAME", help="A name from `tokenry list`.", show_default=False)
    ],
) -> None:
    """Show one system: its paper, its entry point, what was measured."""
    card = catalog.card(slug)
    console = Console()
    result = results.find(card)
    console.print(_facts(card, with_caution=result is None))
    if card.entry_point is not None:
        console.print(Text(f"\n{docstring(card.entry_point)}\n"))
    if result is not None:
        console.print(_result_table(result, card.caution))


def _facts(card: Card, *, with_caution: bool) -> Table:
    """What the card says; its caution belongs beside a verdict, if there is one (an installed wheel has none)."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    rows = {
        "system": card.name,
        "paper": f"{card.title} ({card.venue or card.year})" if card.year else card.title,
        "link": card.link,
        "what it does": card.summary,
        "room": card.room,
        "stage": card.stage,
        "kind": f"{card.kind}, {'trained' if card.trained else 'training-free'}",
        "state": card.state,
        "entry point": card.entry_point,
        "notes": card.notes,
        "caution": card.caution if with_caution else None,
    }
    for label, value in rows.items():
        if value is not None:
            table.add_row(label, Text(value))
    return table


def _result_table(result: results.Result, caution: str | None) -> Table:
    table = Table(
        title="small-scale reproduction",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
    )
    table.add_column(style="bold", max_width=_LABEL)
    table.add_column(ratio=1)
    for label, value in result.rows():
        table.add_row(label, Text(value))
        if label == "verdict" and caution is not None:
            table.add_row("caution", Text(caution))
    return table
