"""`tokenry list` and `tokenry info`: the catalogue in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tokenry import catalog
from tokenry.catalog import Card, results
from tokenry.catalog.card import STATE_MEANINGS
from tokenry.cli import system
from tokenry.cli.terminal import Screen

_WIDE = 100  # columns: from here on there is room for stage and verdict


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
    console = Screen()
    console.print(_listing(chosen, console.width))
    done = sum(card.state == "done" for card in chosen)
    partly = sum(card.state == "partly" for card in chosen)
    told = f", {partly} partly ({STATE_MEANINGS['partly'].partition(';')[0]})" if partly else ""
    baselines = sum(card.baseline for card in chosen)
    counted = (
        f"{len(chosen)} system"
        + ("" if len(chosen) == 1 else "s")
        + (f" ({baselines} of them baselines)" if baselines else "")
    )
    console.print(f"\n{counted}, {done} done{told}; `tokenry info NAME` tells more about one.")


def _listing(chosen: Sequence[Card], width: int) -> Table:
    """The systems below the names of their rooms; what does not fit is left out, not squeezed."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    wide = width >= _WIDE
    verdicts = {card.slug: found.verdict for card in chosen if wide and (found := results.find(card))}
    staged = wide and any(card.stage for card in chosen)
    for heading in ("system", "state", *(["stage"] if staged else []), *(["reproduced"] if verdicts else [])):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it does", ratio=1)
    for room, cards in groupby(chosen, key=attrgetter("room")):
        table.add_row(Text(f"[{room}]", style="bold"))
        for card in cards:
            table.add_row(
                card.slug,
                Text(card.state, style=system.STATE_STYLES[card.state]),
                *([card.stage or ""] if staged else []),
                *([verdicts.get(card.slug, "")] if verdicts else []),
                Text(card.summary),  # as it is: square brackets are not markup here
            )
    return table


def show_system(
    slug: Annotated[
        str, typer.Argument(metavar="NAME", help="A name from `tokenry list`.", show_default=False)
    ],
    full: Annotated[
        bool, typer.Option("--full", help="With its documentation and everything that was measured.")
    ] = False,
) -> None:
    """Show one system: its paper, how it is used, and whether its claim could be reproduced."""
    card = catalog.card(slug)
    console = Screen()
    result = results.find(card)
    console.print(system.full(card, result, console) if full else system.brief(card, result, console.width))
