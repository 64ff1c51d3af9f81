"""`tokenry vocab transplant`: give a model another vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.catalog.registry import catalogued, default
from tokenry.cli import options
from tokenry.cli.terminal import knowing, say


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("transplant")(transplant_model)


def transplant_model(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a model, or 'smollm2'.")],
    to: Annotated[str, typer.Option("--to", help="Folder of the new tokenizer, or 'minilm'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new model.")],
    method: Annotated[
        str, typer.Option(help=f"{', '.join(catalogued('transplant'))}, or one of another package.")
    ] = default("transplant"),
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the method, as JSON. Repeatable."),
    ] = None,
    donor: Annotated[
        str | None,
        typer.Option(help="For methods that learn from a model of the new tokenizer: a folder, or 'minilm'."),
    ] = None,
    hypernet: Annotated[
        Path | None, typer.Option(help="For the method that predicts rows: a trained hypernetwork.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Text for methods that count in it. Repeatable."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", "-t", help="Text for bits per byte before and after. Repeatable."),
    ] = None,
    continue_on: Annotated[
        list[str] | None, typer.Option("--continue-on", help="Text to train on afterwards. Repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of that training.")] = 1000,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate while only the rows are trained.")] = 1e-3,
    body_lr: Annotated[float, typer.Option(min=0, help="Learning rate once everything is trained.")] = 1e-4,
    multiple: Annotated[int, typer.Option(min=1, help="Pad the rows to a multiple of this.")] = 1,
    limit: Annotated[int, typer.Option(min=1, help="Bytes of each named corpus to use.")] = 1_000_000,
    chat: Annotated[bool, typer.Option(help="Carry chat template and control tokens over.")] = True,
    dtype: options.DtypeOption = options.Dtype.AUTO,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
) -> None:
    """Give MODEL the tokenizer TO and save it as a folder that from_pretrained loads.

    Texts are files, folders, or names of corpora (debian-docs, manpages/de ...). An interrupted --continue-on goes on
    with the same command.
    """
    from tokenry.bench.vocabularies.transplant import (
        bits,
        changes_text,
        load_donor,
        texts_of,
    )
    from tokenry.models.load import load
    from tokenry.text.transplant import Context, save_transplanted, transplant, transplant_method
    from tokenry.text.transplant.apply import check_free
    from tokenry.text.vocabulary import load_tokenizer

    settings = options.keyword_settings(setting or [])
    if hypernet is not None:
        settings["hypernet"] = hypernet
    chosen = transplant_method(method, **settings)
    check_free(out)
    measured, counted = texts_of(text, limit), texts_of(corpus or continue_on, limit)
    trained_on = texts_of(continue_on, limit)
    new = load_tokenizer(to)
    loaded, tokenizer = load(model, reads="text", dtype=dtype.value)
    context = Context(texts=counted, donor=None if donor is None else load_donor(donor), seed=seed)
    before = bits(loaded, tokenizer, measured)
    moved = transplant(
        loaded, tokenizer, new, chosen, context=context, multiple=multiple, chat=chat, inplace=True
    )
    report = dict(moved.report)
    if before is not None:
        report["bits per byte"] = {"before": before, "after": bits(moved.model, moved.tokenizer, measured)}
        if changes_text(moved.tokenizer, measured) != changes_text(tokenizer, measured):
            report["beware"] = (
                "one of the two tokenizers changes the text (case, accents, white space) before it cuts it, so the "
                "two models predict different texts and their bits per byte do not compare"
            )
    if trained_on:
        from tokenry.text.transplant.training import ContinueSettings, continue_training

        checkpoints = out.with_name(f"{out.name}-training")
        schedule = ContinueSettings(steps=steps, lr=lr, body_lr=body_lr, seed=seed)
        origin = f"{model}, {chosen!r}"
        with knowing(f"The same command goes on from the last checkpoint in {checkpoints}."):
            continue_training(moved.model, moved.tokenizer, trained_on, schedule, checkpoints, origin=origin)
        if before is not None:
            report["bits per byte"]["after training"] = bits(moved.model, moved.tokenizer, measured)
    save_transplanted(moved.model, moved.tokenizer, out, report)
    for name, value in report.items():
        say(f"{name + ':':<28} {_shown(value)}")
    say(f'Saved; load it with AutoModelForCausalLM.from_pretrained("{out}")')


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
