"""`tokenry compare`: methods and budgets on a model and data of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli import options
from tokenry.cli.options import Attention, Dtype
from tokenry.hosts.checkpoints import require_model


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("compare")(compare_methods)


def compare_methods(
    model: options.Model = "embedded",
    data: options.DataOption = "scenes",
    methods: options.MethodsOption = None,
    budgets: options.BudgetsOption = ["50%", "25%", "10%"],  # noqa: B006 - typer copies it
    limit: options.LimitOption = None,
    out: options.OutOption = Path("tokenry-comparison"),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of methods that draw lots.")] = 3,
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
    """Compare methods at several budgets; none, random and pool always take part.

    Results are appended to OUT/results.jsonl as they come; the same command continues where it was interrupted.
    """
    require_model(model, adapter)
    from tokenry import bench
    from tokenry.bench.reducers.arms import plan_arms

    form = options.Form.of(wide, as_json, as_csv)
    names, limits = options.split_methods(methods), options.split_budgets(budgets)
    plan_arms(names, limits, seeds=seeds)  # a misspelt name is told before the model is loaded
    bench.metric(metric)
    bench.Template(prompt)
    questions = options.questions(data, limit)
    options.check_writable(out)
    bench.require_free(out)
    loaded, processor = options.load(model, dtype, attn, device, device_map, adapter, trust_remote_code)
    with options.resumable(out):
        comparison = bench.compare(
            loaded,
            processor,
            questions.examples,
            names,
            limits,
            seeds=seeds,
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
    options.show(comparison.path, comparison.results, form, report=out)
    options.fail_if_nothing_ran(comparison)
