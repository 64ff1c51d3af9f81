"""`tokenry decode bench`: which way of decoding is fastest for a model on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenry.cli import options
from tokenry.cli.terminal import FAILED, say, screen

if TYPE_CHECKING:
    from tokenry.bench.decoders.report import DecodingReport


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("bench")(decode_bench)


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
    max_new_tokens: options.TokensOption = 128,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many prompts of each class.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each prompt is decoded in each way.")] = 3,
    dtype: options.DtypeOption = options.Dtype.BFLOAT16,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    device: options.DeviceOption = None,
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
    out: Annotated[
        Path, typer.Option("--out", "-o", help="JSON file for the results; every decoding is kept beside it.")
    ] = Path("tokenry-decoding.json"),
) -> None:
    """Compare decoders on MODEL: speed against greedy decoding, what they accept, memory, and whether texts agree.

    All of them are greedy and, but for rounding, write the same text. transformers' own prompt lookup and assisted
    generation run beside tokenry's decoders. Every decoding is appended to a file beside OUT (.jsonl) as it comes; the
    same command continues where it was interrupted.
    """
    from tokenry.bench.decoders.compare import DECODERS, check_request, compare_decoders
    from tokenry.bench.decoders.log import read_decoding
    from tokenry.bench.decoders.report import save_report
    from tokenry.bench.environment import limit_threads
    from tokenry.data.text.prompts import load_prompts, read_prompts
    from tokenry.models.load import load
    from tokenry.predict.lm.calibrate import Calibration
    from tokenry.predict.lm.calibrate import calibrate as measure

    known = load_prompts() if prompts is None else read_prompts(prompts)
    chosen = {kind: several[:limit] for kind, several in known.items()}
    names = options.split_methods(decoders) or DECODERS
    check_request(chosen, names, max_new_tokens, rounds)
    log = _beside(out)
    options.check_writable(out.parent)
    loaded, tokenizer = load(model, reads="text", dtype=dtype.value, device=device)
    drafting: Any = assistant
    if assistant is not None:
        early = assistant.isdecimal()
        drafting = (
            int(assistant) if early else load(assistant, reads="text", dtype=dtype.value, device=device)[0]
        )
    with limit_threads(threads):
        try:
            report = compare_decoders(
                loaded,
                tokenizer,
                chosen,
                names,
                new_tokens=max_new_tokens,
                rounds=rounds,
                calibration=partial(measure, loaded) if calibrate else None,
                assistant=drafting,
                name=options.display_name(model),
                out=log,
                progress=True,
            )
        except KeyboardInterrupt as stopped:
            so_far = read_decoding(log)
            if so_far is not None and so_far.done:
                _print(so_far)
            stopped.add_note(f"What was measured is in {log}; the same command continues there.")
            raise
    if report.calibration is not None:
        say(f"{Calibration.from_json(report.calibration)}\n")
    _print(report)
    save_report(report, out)
    say(f"Results: {out}")
    if report.failure is not None:
        raise typer.Exit(FAILED)


def _print(report: DecodingReport) -> None:
    """The tables, as wide as the terminal is."""
    from tokenry.bench.decoders.report import decoding_table

    out = screen()
    out.print(decoding_table(report, width=out.width))


def _beside(out: Path) -> Path:
    """The file that every decoding is kept in.

    Raises:
        InputError: it would be the results' own.
    """
    from tokenry.tokens import InputError

    log = out.with_suffix(".jsonl")
    if log == out:
        raise InputError(
            f"--out names the JSON file of the results, such as {out.with_suffix('.json')}; {out} is where every "
            "decoding is kept."
        )
    return log
