"""`tokenry decode-bench`: which way of decoding is fastest for a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli import options


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("decode-bench")(decode_bench)


def decode_bench(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a language model, or 'smollm2'.")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts: JSON Lines or plain text.", show_default="five classes of tokenry's"),
    ] = None,
    decoders: Annotated[
        list[str] | None,
        typer.Option(help="Names, comma-separated; NAME-cold forgets before every prompt. Repeatable."),
    ] = None,
    new_tokens: Annotated[int, typer.Option(help="Most tokens to write for a prompt.")] = 128,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts of each class.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each prompt is decoded in each way.")] = 3,
    dtype: options.DtypeOption = options.Dtype.BFLOAT16,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    device: options.DeviceOption = "cpu",
    assistant: Annotated[
        str | None,
        typer.Option(
            help="For 'assisted': folder of a smaller model, or after how many layers to exit early."
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(help="Measure forward times first and size draft trees by them; if not, 16 guesses."),
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the results.")] = None,
) -> None:
    """Compare decoders on MODEL: speed against greedy decoding, what they accept, memory, and whether texts agree.

    All of them are greedy and, but for rounding, write the same text. transformers' own prompt lookup and assisted
    generation run beside tokenry's decoders.
    """
    from tokenry.bench.decoding import DECODERS, compare_decoders
    from tokenry.bench.decoding_report import decoding_table, save_report
    from tokenry.bench.environment import limit_threads
    from tokenry.bench.transplant import load_language_model
    from tokenry.data.prompts import load_prompts, read_prompts
    from tokenry.hosts.calibrate import calibrate as measure
    from tokenry.hosts.load import require_device
    from tokenry.tokens import InputError

    chosen = load_prompts() if prompts is None else read_prompts(prompts)
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit} prompts leaves nothing to compare on.")
    if out is not None:
        options.check_writable(out.parent)
    require_device(device)
    loaded, tokenizer = load_language_model(model, dtype=dtype.value)
    loaded.to(device)
    drafting: Any = assistant
    if assistant is not None:
        early = assistant.isdigit()
        drafting = (
            int(assistant) if early else load_language_model(assistant, dtype=dtype.value)[0].to(device)
        )
    console = options.console()
    try:
        with limit_threads(threads):
            calibration = measure(loaded) if calibrate else None
            if calibration is not None:
                typer.echo(f"{calibration}\n")
            report = compare_decoders(
                loaded,
                tokenizer,
                {kind: several[:limit] for kind, several in chosen.items()},
                options.split_methods(decoders) or DECODERS,
                new_tokens=new_tokens,
                rounds=rounds,
                calibration=calibration,
                assistant=drafting,
                name=options.display_name(model),
                progress=True,
            )
    except KeyboardInterrupt:
        typer.echo("\nInterrupted; decoders compare only over all prompts, so nothing is shown.", err=True)
        raise typer.Exit(options.INTERRUPTED) from None
    console.print(decoding_table(report))
    if out is not None:
        save_report(report, out)
        typer.echo(f"Results: {out}")
    if report.failure is not None:
        raise typer.Exit(options.FAILED)
