"""`tokenry tune`: the cheapest method and budget that keep a stated accuracy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenry.cli import options
from tokenry.cli.options import Attention, Dtype
from tokenry.cli.terminal import say
from tokenry.hosts.checkpoints import require_model

if TYPE_CHECKING:
    from tokenry.reduce import Reducer


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("tune")(tune_methods)


def tune_methods(
    model: options.Model = "embedded",
    data: options.DataOption = "scenes",
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
    methods: options.MethodsOption = None,
    budgets: options.BudgetsOption = ["75%,50%,35%,25%,15%,10%"],  # noqa: B006 - typer copies it
    limit: options.LimitOption = None,
    out: options.OutOption = Path("tokenry-tuning"),
    dtype: options.DtypeOption = Dtype.AUTO,
    attn: options.AttentionOption = Attention.SDPA,
    device: options.PlaceOption = None,
    device_map: options.DeviceMapOption = None,
    adapter: options.AdapterOption = None,
    trust_remote_code: options.TrustOption = False,
    threads: options.ThreadsOption = None,
    batch_size: options.BatchOption = 1,
    positions: options.PositionsOption = None,
    metric: options.MetricOption = "exact",
    prompt: options.PromptOption = None,
    max_new_tokens: options.TokensOption = 32,
    wide: options.WideOption = False,
    as_json: options.JsonOption = False,
    as_csv: options.CsvOption = False,
) -> None:
    """Find the cheapest method and budget that keep TARGET of the score, with 97.5 % confidence."""
    require_model(model, adapter)
    from tokenry import bench
    from tokenry.bench.reducers.arms import plan_arms
    from tokenry.bench.reducers.choose import cost_column

    form = options.Form.of(wide, as_json, as_csv)
    names, limits = options.split_methods(methods), options.split_budgets(budgets)
    plan_arms(names, limits)
    cost_column(by)
    bench.metric(metric)
    bench.Template(prompt)
    questions = options.questions(data, limit)
    options.check_writable(out)
    bench.require_free(out)
    loaded, processor = options.load(model, dtype, attn, device, device_map, adapter, trust_remote_code)
    with options.resumable(out):
        tuning = bench.tune(
            loaded,
            processor,
            questions.examples,
            target,
            max_drop=max_drop,
            methods=names or None,
            budgets=limits,
            by=by,
            out=out,
            name=options.display_name(model, adapter),
            data_name=questions.name,
            left_out=questions.skipped,
            max_new_tokens=max_new_tokens,
            threads=threads,
            batch_size=batch_size,
            positions=positions,
            metric=metric,
            prompt=prompt,
            progress=True,
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
        say(f"As an option of compare (--method of run):\n  --methods '{as_option(tuning.methods)}'")


def as_option(methods: Sequence[Reducer]) -> str:
    """Configured methods as one JSON text that `--methods` and `--method` read: a list where they are a chain."""
    chain = [method.to_json() for method in methods]
    return json.dumps(chain if len(chain) > 1 else chain[0])
