"""`tokenry report`: the page of a results file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Write the report of a comparison: one HTML page, and its charts and overlays as PNG."""
    from tokenry.bench import write_report

    written = write_report(file, out)
    if written.skipped:
        typer.echo(f"{written.skipped} unreadable lines were skipped.", err=True)
    typer.echo(f"Report: {written.page.resolve()}")
    typer.echo(f"PNG:    {len(written.pictures)} files beside it")
