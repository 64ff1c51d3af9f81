"""`tokenry reduce report`: the page of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options
from tokenry.cli.groups import Printing, spread


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("report")(spread(report_file))


def report_file(
    file: Annotated[
        Path, typer.Argument(help="A results.jsonl, or the folder it lies in.", show_default=False)
    ],
    printing: Printing,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report.", show_default="FILE's")
    ] = None,
) -> None:
    """Print the table of a comparison and write its report: one HTML page, and its charts and overlays as PNG."""
    from tokenry.bench import read_results
    from tokenry.bench.reducers.report import results_file

    form = printing.form
    path = results_file(file)
    options.show(path, read_results(path), form, report=out)
