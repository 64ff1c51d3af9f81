"""What several commands share: option types, and how lists are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from tokenry.cli.terminal import FAILED, Screen, knowing, say, screen
from tokenry.data.questions.metrics import METRICS
from tokenry.tokens.positions import Positions

if TYPE_CHECKING:
    from tokenry.bench import Comparison
    from tokenry.bench.reducers.data import Data
    from tokenry.bench.reducers.results import Results

_UNBOUNDED = 10_000
"""Width of output that is not to be broken into lines."""
_NAMED = 10
"""Things in a folder that cannot be used and are named; the rest is counted."""


class Dtype(StrEnum):
    """Types that weights are loaded in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Form(StrEnum):
    """How a comparison is printed."""

    NARROW = "table"
    WIDE = "wide table"
    JSON = "json"
    CSV = "csv"

    @classmethod
    def of(cls, wide: bool, as_json: bool, as_csv: bool) -> Form:
        """The form that was asked for.

        Raises:
            InputError: two of them.
        """
        from tokenry.tokens.errors import InputError

        if wide + as_json + as_csv > 1:
            raise InputError("A comparison is printed in one form: --wide, --json or --csv.")
        return cls.WIDE if wide else cls.JSON if as_json else cls.CSV if as_csv else cls.NARROW

    @property
    def is_for_programs(self) -> bool:
        """Whether standard output is read by a program, and holds nothing else."""
        return self in (Form.JSON, Form.CSV)


class Attention(StrEnum):
    """Attention implementations."""

    SDPA = "sdpa"
    EAGER = "eager"
    FLASH = "flash_attention_2"


Model: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="'embedded', a local folder, or a model hub id.", show_default=False
    ),
]
DtypeOption: TypeAlias = Annotated[Dtype, typer.Option("--dtype", help="Type of the weights.")]
AttentionOption: TypeAlias = Annotated[Attention, typer.Option("--attn", help="Attention implementation.")]
DeviceOption: TypeAlias = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...", show_default="cpu")
]
DeviceMapOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--device-map",
        help="Spread the model over devices instead: auto, balanced, sequential, or parts and devices as JSON.",
        show_default=False,
    ),
]
AdapterOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        help="Folder or hub id of an adapter of peft (LoRA ...) for the model.",
        show_default=False,
    ),
]
TrustOption: TypeAlias = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the model. Read it first."),
]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads.", show_default="all")
]
DataOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--data",
        help="'scenes' (drawn as MODEL knows them), a folder with pictures and questions.jsonl, or a file of these.",
    ),
]
LimitOption: TypeAlias = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many questions.")
]
OutOption: TypeAlias = Annotated[Path, typer.Option("--out", "-o", help="Folder for results and report.")]
MethodsOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        "-m",
        help="Names, comma-separated; a+b chains two; or one JSON configuration, a list for a chain. Repeatable.",
    ),
]
BudgetsOption: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--budgets", "-b", help="50%,25%,64 ...; or one schedule such as 0.25:50%,0.5:25%. Repeatable."
    ),
]
PositionsOption: TypeAlias = Annotated[
    Positions | None,
    typer.Option(
        "--positions",
        help="Position ids of kept tokens, for all methods: kept, renumbered, or each paper's (then the baselines run "
        "under both).",
        show_default="as configured: keep",
    ),
]
MetricOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="How an answer is scored: " + "; ".join(f"{m.name} ({m.help})" for m in METRICS.values()) + ".",
    ),
]
PromptOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="How a question is put: a text with {question} in it, and {choices} for its options if it has any.",
        show_default="the question; with choices, these and an instruction to answer with a letter",
    ),
]
WideOption: TypeAlias = Annotated[
    bool, typer.Option("--wide", help="All columns of the table, however wide.")
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
CsvOption: TypeAlias = Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")]
BatchOption: TypeAlias = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, help="Questions in a pass; each is charged its share of the pass's time."
    ),
]
TokensOption: TypeAlias = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Most tokens to write for an answer.")
]


def questions(data: str, limit: int | None, model: str) -> Data:
    """The questions of a data set that a model is asked; says what of a folder cannot be used."""
    from tokenry import bench

    loaded = bench.load_data(data, limit, model=model)
    if loaded.skipped:
        say(f"Skipped {sum(one.count for one in loaded.skipped):,} things that cannot be used:", err=True)
        for line in loaded.skipped[:_NAMED]:
            say(f"  {line}", err=True)
        if len(loaded.skipped) > _NAMED:
            say(f"  and others, for {len(loaded.skipped) - _NAMED:,} more reasons", err=True)
    return loaded


def split_methods(values: Sequence[str] | None) -> list[str]:
    """ "a,b" as two names; a JSON configuration, which has commas of its own, as one."""
    from tokenry.reduce.registry import is_json

    return [
        name.strip()
        for value in values or ()
        for name in ([value] if is_json(value) else value.split(","))
        if name.strip()
    ]


def split_budgets(values: Sequence[str]) -> list[str]:
    """ "50%,25%" as two budgets; a schedule, which has commas of its own, as one."""
    return [
        b.strip() for value in values for b in ([value] if ":" in value else value.split(",")) if b.strip()
    ]


def keyword_settings(given: Sequence[str]) -> dict[str, Any]:
    """ "top-k=5" of `--set` as a keyword argument ``top_k=5``; what is no JSON is text.

    Raises:
        InputError: no name, or no "=".
    """
    from tokenry.tokens import InputError

    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise InputError(f"--set takes NAME=VALUE, such as min_frequency=5, not {one!r}.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def read_device_map(given: str | None) -> str | dict[str, Any] | None:
    """A device map as accelerate takes it: a word, or an object of parts of the model and their devices.

    Raises:
        InputError: it is meant to be an object, and is no JSON.
    """
    from tokenry.tokens import InputError

    if given is None or not given.lstrip().startswith("{"):
        return given
    try:
        found: dict[str, Any] = json.loads(given)
    except json.JSONDecodeError as error:
        raise InputError(
            f"--device-map {given} is no JSON ({error}): write auto, or an object such as "
            '{"model.vision_tower": 0, "": "cpu"}.'
        ) from error
    return found


def display_name(model: str, adapter: str | None = None) -> str:
    """How a model, and an adapter on it, is called in a report: a folder by its own name, not by where it lies."""
    named = (Path(name).resolve().name if Path(name).is_dir() else name for name in (model, adapter) if name)
    return " + ".join(named)


def check_writable(folder: Path) -> None:
    """Make the folder and see that it can be written to, before any work is done.

    Raises:
        InputError: it cannot.
    """
    from tokenry.tokens import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"Cannot write to {folder}: {error.strerror}. Choose another folder (--out)."
        ) from error


def show(
    path: Path, results: Results, form: Form, *, report: Path | None, conclude: bool = True, **more: Any
) -> None:
    """Print a comparison in the form that was asked for, write its report, say where.

    Args:
        path: the results file.
        results: its content.
        form: table, JSON or CSV.
        report: folder for the report; that of the file by default.
        conclude: whether to say which row to take; not where the caller has its own answer.
        more: further values for JSON, by name.
    """
    from tokenry.bench import as_csv, as_json, as_table, write_report

    # Printed before the report is written: a full disk costs the page, not the answer.
    if form is Form.JSON:
        say(as_json(results, **more), end="")
    elif form is Form.CSV:
        say(as_csv(results), end="")
    else:
        out = screen()
        fits = form is Form.NARROW and out.is_terminal
        shown = out if fits else Screen(width=_UNBOUNDED)
        shown.print(as_table(results, width=out.width if fits else None, conclude=conclude))
        shown.print()
    written = write_report(path, report)
    if written.skipped:
        say(f"Unreadable lines of {path} that were skipped: {written.skipped:,}.", err=True)
    say(f"Results: {path}", err=form.is_for_programs)
    say(f"Report:  {written.page.resolve()}", err=form.is_for_programs)


def fail_if_nothing_ran(comparison: Comparison) -> None:
    """End with an exit code that scripts see if every method was refused; `show` has said so."""
    if comparison.failure is not None:
        raise typer.Exit(FAILED)


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """On Ctrl-C: say that nothing is lost, and how to go on."""
    with knowing(f"What was measured is in {out / 'results.jsonl'}; the same command continues there."):
        yield
