"""`tokenry demo`: the main job on a model that comes with its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.bench.reducers.demo import QUESTIONS, require_scenes
from tokenry.cli import options
from tokenry.cli.groups import Printing, spread


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("demo")(spread(run_demo))


def run_demo(
    printing: Printing,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model by name whose scenes are known.")
    ] = "embedded",
    out: options.OutOption = Path("demo-report"),
    questions: Annotated[int, typer.Option(min=1, help="Questions about held-out scenes.")] = QUESTIONS,
) -> None:
    """Compare all methods on MODEL and the scenes that it knows, print the table, write a report."""
    require_scenes(model)
    from tokenry import bench

    form = printing.form
    options.check_writable(out)
    with options.resumable(out):
        comparison = bench.run_demo(out, model, questions=questions)
    options.show(comparison.path, comparison.results, form, report=out)
    options.fail_if_nothing_ran(comparison)
