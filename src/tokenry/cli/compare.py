"""`tokenry reduce compare`: methods and budgets on a model and data of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options
from tokenry.cli.groups import Comparing, Loading, Printing, spread


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("compare")(spread(compare_methods))


def compare_methods(
    comparing: Comparing,
    loading: Loading,
    printing: Printing,
    model: options.Model = "embedded",
    budgets: options.BudgetsOption = ["50%", "25%", "10%"],  # noqa: B006 - typer copies it
    out: options.OutOption = Path("tokenry-comparison"),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of methods that draw lots.")] = 3,
) -> None:
    """Compare methods at several budgets; none, random and pool always take part.

    Results are appended to OUT/results.jsonl as they come; the same command continues where it was interrupted.
    """
    loading.require(model)
    from tokenry import bench

    form = printing.form
    with comparing.asked(model, loading, budgets, out, seeds=seeds) as asked:
        comparison = bench.compare(*asked.subject, asked.methods, asked.budgets, **asked.settings)
    options.show(comparison.path, comparison.results, form, report=out)
    options.fail_if_nothing_ran(comparison)
