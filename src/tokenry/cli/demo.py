"""`tokenry demo`: the main job on the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("demo")(run_demo)


def run_demo(
    out: options.OutOption = Path("demo-report"),
    questions: Annotated[int, typer.Option(min=1, help="Questions about held-out scenes.")] = 200,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    as_csv: options.CsvOption = False,
) -> None:
    """Compare all methods on the embedded model and pictures, print the table, write a report."""
    from tokenry import bench

    form = options.Form.of(wide, as_json, as_csv)
    options.check_writable(out)
    with options.resumable(out):
        comparison = bench.run_demo(out, questions=questions)
    options.show(comparison.path, comparison.results, form, report=out)
    options.fail_if_nothing_ran(comparison)
