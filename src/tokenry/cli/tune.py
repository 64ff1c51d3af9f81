"""`tokenry reduce tune`: the cheapest method and budget that keep a stated accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenry.cli import options
from tokenry.cli.groups import Comparing, Loading, Printing, spread
from tokenry.cli.terminal import say

if TYPE_CHECKING:
    from tokenry.reduce import Reducer


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("tune")(spread(tune_methods))


def tune_methods(
    comparing: Comparing,
    loading: Loading,
    printing: Printing,
    model: options.Model = "embedded",
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the full model's score to keep.")
    ] = 0.99,
    max_drop: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Score that may be lost instead, as a share (0.01 = one point)."),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Cost to minimise, such as prefill_flops, prefill_ms, kv_bytes.")
    ] = "prefill_flops",
    budgets: options.BudgetsOption = ["75%,50%,35%,25%,15%,10%"],  # noqa: B006 - typer copies it
    out: options.OutOption = Path("tokenry-tuning"),
) -> None:
    """Find the cheapest method and budget that keep TARGET of the score, with 97.5 % confidence."""
    loading.require(model)
    from tokenry import bench
    from tokenry.bench.reducers.choose import cost_column

    form = printing.form
    cost_column(by)
    with comparing.asked(model, loading, budgets, out) as asked:
        tuning = bench.tune(
            *asked.subject,
            target,
            max_drop=max_drop,
            methods=asked.methods or None,
            budgets=asked.budgets,
            by=by,
            **asked.settings,
        )
    choice = {
        "choice": None if tuning.methods is None else [method.to_json() for method in tuning.methods],
        "chosen": None if tuning.best is None else str(tuning.best),
        "frontier": [str(row) for row in tuning.choice.frontier],
        "verdict": str(tuning),
    }
    options.show(
        tuning.comparison.path, tuning.comparison.results, form, report=out, conclude=False, **choice
    )
    options.fail_if_nothing_ran(tuning.comparison)
    if form.is_for_programs:
        return
    say("\nNot beaten in both score and cost, cheapest first:")
    for row in tuning.choice.frontier:
        say(f"  {row!s:<34} score {100 * (row.score or 0):5.1f}   {tuning.choice.cost.of(row)}")
    say(f"\n{tuning}")
    if tuning.methods is not None:
        say(
            f"As an option of `tokenry reduce compare` (--method of run):\n  --methods '{as_option(tuning.methods)}'"
        )


def as_option(methods: Sequence[Reducer]) -> str:
    """Configured methods as one JSON text that `--methods` and `--method` read: a list where they are a chain."""
    chain = [method.to_json() for method in methods]
    return json.dumps(chain if len(chain) > 1 else chain[0])
