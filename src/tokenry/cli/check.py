"""`tokenry reduce check`: whether tokenry is exact on a model of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tokenry.cli import options, terminal
from tokenry.cli.groups import Loading, spread
from tokenry.cli.terminal import screen

_MARKS = {
    True: Text("holds", style="green"),
    False: Text("BROKEN", style="bold red"),
    None: Text("n/a", style="dim"),
}


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("check")(spread(check_model))


def check_model(
    loading: Loading,
    model: options.Model = "embedded",
    image: Annotated[
        Path | None, typer.Option(help="A picture to check with.", show_default="a built-in scene")
    ] = None,
    question: Annotated[str, typer.Option(help="A question about it.")] = "what is at the top left?",
) -> None:
    """Run the laws on MODEL: identity at 100 %, equality with masking, clean removal. Exit code 1 if one is broken."""
    loading.require(model)
    from tokenry import bench
    from tokenry.reduce.check import check

    picture = (
        bench.load_data("scenes", 1, model=model).examples[0].image
        if image is None
        else bench.open_picture(image)
    )
    loaded, processor = loading.load(model)
    report = check(loaded, bench.prepare(loaded, processor, picture, question))
    table = Table(
        title=report.model, title_justify="left", box=None, header_style="bold", padding=(0, 2, 0, 0)
    )
    for heading in ("stage", "law", "", "largest difference, or why not"):
        table.add_column(heading)
    for law in report.laws:
        table.add_row(law.stage, Text(law.name), _MARKS[law.holds], Text(law.detail))
    out = screen()
    out.print(table)
    stages = ", ".join(stage for stage, holds in report.stages.items() if holds and stage != "any") or "none"
    out.print(f"\nSupported stages: {stages}")
    if not report.ok:
        raise typer.Exit(terminal.FAILED)
