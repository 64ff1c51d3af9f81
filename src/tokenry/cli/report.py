"""`tokenry report`: the page of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("report")(report_file)


def report_file(
    file: Annotated[
        Path, typer.Argument(help="A results.jsonl, or the folder it lies in.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report.", show_default="FILE's")
    ] = None,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    as_csv: options.CsvOption = False,
) -> None:
    """Print the table of a comparison and write its report: one HTML page, and its charts and overlays as PNG."""
    from tokenry.bench import read_results
    from tokenry.bench.reducers.report import results_file

    form = options.Form.of(wide, as_json, as_csv)
    path = results_file(file)
    options.show(path, read_results(path), form, report=out)
