"""`tokenry demo`: the main job on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.bench.reducers.demo import QUESTIONS
from tokenry.cli import options
from tokenry.cli.groups import Printing, spread


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("demo")(spread(run_demo))


def run_demo(
    printing: Printing,
    out: options.OutOption = Path("demo-report"),
    questions: Annotated[int, typer.Option(min=1, help="Questions about held-out scenes.")] = QUESTIONS,
) -> None:
    """Compare all methods on the embedded model and pictures, print the table, write a report."""
    from tokenry import bench

    form = printing.form
    options.check_writable(out)
    with options.resumable(out):
        comparison = bench.run_demo(out, questions=questions)
    options.show(comparison.path, comparison.results, form, report=out)
    options.fail_if_nothing_ran(comparison)
