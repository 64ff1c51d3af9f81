"""What every command shares: how it ends when it is told to stop, and what reaches the terminal."""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

import tokenry.cli
from tests.text.transplant import tiny
from tokenry.bench.decoders.report import Decoded, DecodingReport, decoding_table
from tokenry.bench.reducers import measure
from tokenry.cli import terminal
from tokenry.cli.main import app
from tokenry.cli.terminal import Screen, Stopped, knowing, visible
from tokenry.data.questions.examples import load_scenes

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[2J\x1b]0;owned\x07 \x9b31m a\rb\b \u202etxt\u2066 [red]x[/] [/]"
MUST_NOT_REACH_A_TERMINAL = set(map(chr, (*range(9), *range(11, 32), *range(127, 160)))) | set("\u202e\u2066")


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the application, as typer has them."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, one in command.commands.items():
        yield from leaves(one, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def required(command: Any) -> list[str]:
    """Words for what a command cannot do without."""
    words = []
    for parameter in command.params:
        if parameter.required:
            words += ["1"] if parameter.param_type_name == "argument" else [parameter.opts[0], "1"]
    return words


def started(*words: str | Path, **changes: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(tokenry.cli.__file__).parents[2])} | changes
    return subprocess.Popen(
        [sys.executable, "-m", "tokenry", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        encoding=changes.get("PYTHONIOENCODING", "utf-8").partition(":")[0],
    )


# -------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_ctrl_c_ends_every_command_with_130_and_one_line(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root: Any = typer.main.get_command(app)
    command = dict(leaves(root))[path]

    def interrupted(**given: Any) -> None:
        with knowing("It goes on."):
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "callback", interrupted)
    with pytest.raises(SystemExit) as end:
        root.main([*path, *required(command)])
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted. It goes on.\n"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated.")]
)
@pytest.mark.parametrize("hidden", ["as it is", "as another error", "swallowed"])
def test_a_signal_ends_a_command_whatever_a_library_makes_of_it(
    number: signal.Signals, code: int, word: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*given: Any, **options: Any) -> Any:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if hidden == "as it is":
                raise
            if hidden == "as another error":
                raise ImportError("cannot import name 'x'") from None
        return []

    monkeypatch.setattr("tokenry.catalog.cards", work)
    before = signal.getsignal(number)
    found = CliRunner().invoke(app, ["list"])
    assert found.exit_code == code
    assert word in found.stderr
    assert signal.getsignal(number) is before


def test_a_signal_that_whoever_called_has_had_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminal.stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_torch_is_imported_shows_no_traceback(number: signal.Signals) -> None:
    with started("reduce", "compare", "--limit", "1") as run:
        while "libtorch" not in Path(f"/proc/{run.pid}/maps").read_text():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert said.strip() in ("Interrupted.", "Terminated.")


def test_ctrl_c_does_not_wait_for_a_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenizers` looks at no signals while it counts."""
    from tokenry.text.training import train_bpe

    class Slow:
        """Stands for compiled code: it goes on, whatever happens."""

        def __iter__(self) -> Iterator[str]:
            for _ in range(1000):
                signal.raise_signal(signal.SIGINT) if not begun else time.sleep(0.01)
                begun.append(True)
                yield "a text"

    begun: list[bool] = []
    started_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_bpe(Slow(), 300)
    assert time.monotonic() - started_at < 5


def test_a_reader_that_has_gone_away_ends_a_command_quietly() -> None:
    with started("list") as run:
        assert run.stdout is not None
        run.stdout.close()
        _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (terminal.PIPE_CLOSED, "")


def test_what_commands_know_is_said_once_each() -> None:
    with pytest.raises(Stopped) as stopped, knowing("All of it is in B."), knowing("It is in A."):
        raise Stopped(signal.SIGTERM)
    assert stopped.value.__notes__ == ["It is in A.", "All of it is in B."]
    assert terminal.say_stopped(stopped.value) == 143


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_number_out_of_range_is_refused_before_anything_is_loaded(path: tuple[str, ...]) -> None:
    """Every number but a seed has a least value, and the command line knows it."""
    command = COMMANDS[path]
    for name, hint in get_type_hints(inspect.unwrap(command.callback), include_extras=True).items():
        kinds = {hint.__origin__, *get_args(hint.__origin__)} if get_origin(hint) is Annotated else {hint}
        if not {int, float} & kinds or name == "seed":
            continue
        (option,) = (one for one in hint.__metadata__ if isinstance(one, typer.models.OptionInfo))
        named = [one for one in (option.default, *(option.param_decls or ())) if str(one).startswith("--")]
        flag = next(iter(named), f"--{name.replace('_', '-')}")
        assert option.min is not None, flag
        found = CliRunner().invoke(app, [*path, *required(command), f"{flag}={option.min - 1}"])
        assert found.exit_code == 2, flag
        assert "Invalid value" in found.stderr, found.stderr


# ---------------------------------------------------------------------------------------------------- what is sent


def test_all_output_of_commands_goes_through_one_module() -> None:
    """Nothing else in cli/ writes by itself or makes a console."""
    for path in Path(tokenry.cli.__file__).parent.glob("*.py"):
        calls = [
            ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)
        ]
        if path.name != "terminal.py":
            assert not {"print", "Console", "typer.echo", "typer.secho"}.intersection(calls), path


def test_control_characters_are_made_visible() -> None:
    assert visible("a\x1b[2J\x07\x9b\r\b\u202e\u2067\x7f") == r"a\x1b[2J\x07\u009b\r\x08\u202e\u2067\u007f"
    assert visible("one\r\ntwo\tthree\n") == "one\ntwo\tthree\n"
    plain = "naïve 日本語 \N{FAMILY} \u200d [red] – ﷺ"
    assert visible(plain) == plain


def test_a_screen_sends_no_control_characters_of_texts_and_reads_no_markup() -> None:
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text.assemble((HOSTILE, "bold"), "and more"))
    file = io.StringIO()
    Screen(file=file, width=200).print(Group(table, HOSTILE, Text(HOSTILE, style="red")), HOSTILE)
    written = file.getvalue()
    assert not MUST_NOT_REACH_A_TERMINAL & set(written)
    assert written.count(r"\x1b[2J\x1b]0;owned") == 7
    assert written.count("[red]x[/]") == 7
    assert "and more" in written


def test_a_screen_keeps_the_styles_around_what_it_makes_visible() -> None:
    file = io.StringIO()
    Screen(file=file, width=80, force_terminal=True, color_system="truecolor").print(Text("a\x1bb", "red"))
    assert file.getvalue() == "\x1b[31ma\x1b[0m\x1b[7;31m\\x1b\x1b[0m\x1b[31mb\x1b[0m\n"


def test_answers_questions_and_names_cannot_steer_the_terminal(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = measure.answer

    def hostile(*given: Any, **options: Any) -> Any:
        found = answer(*given, **options)
        return tuple(replace(one, text=HOSTILE) for one in found)

    monkeypatch.setattr(measure, "answer", hostile)
    picture = tmp_path / f"{HOSTILE.replace('/', '')}.png"
    load_scenes("test", 1)[0].image.save(picture)
    few = ("--max-new-tokens", "2")
    for words in (
        (
            "reduce",
            "run",
            model_folder,
            picture,
            HOSTILE,
            "-b",
            "25%",
            "--compare-full",
            "-o",
            tmp_path / "out",
            *few,
        ),
        (
            "reduce",
            "compare",
            model_folder,
            "-b",
            "25%",
            "--limit",
            "1",
            "-o",
            tmp_path / f"results{HOSTILE[:3]}",
            *few,
        ),
        ("reduce", "report", tmp_path / f"results{HOSTILE[:3]}"),
        ("reduce", "report", tmp_path / f"no{HOSTILE[:4]}"),
        ("info", HOSTILE),
        ("reduce", "run", HOSTILE, picture, "what?"),
        ("reduce", "run", model_folder, picture, "what?", "-m", json.dumps({"method": HOSTILE})),
        ("vocab", "compare", HOSTILE, "-t", HOSTILE),
    ):
        found = CliRunner().invoke(app, [str(word) for word in words])
        assert found.exit_code in (0, 2), found.output
        # standard error also has the progress bars of other libraries, which go back to the beginning of a line
        written = found.stdout + "".join(line for line in found.stderr.splitlines() if "it/s" not in line)
        assert not MUST_NOT_REACH_A_TERMINAL & set(written), (words, written)
        assert r"\x1b" in written, words


def test_prompts_of_decoders_cannot_steer_the_terminal() -> None:
    run = Decoded(HOSTILE, HOSTILE, "greedy", 5, (1.0,), 5, 4, None, None, None, 0, None)
    facts = {"model": HOSTILE, "dtype": "float32", "device": "cpu", "threads": 1, "machine": HOSTILE}
    report = DecodingReport(facts, 5, "wall", None, (run,), {HOSTILE: HOSTILE}, (), 1, 1)
    file = io.StringIO()
    Screen(file=file, width=400).print(decoding_table(report))
    assert not MUST_NOT_REACH_A_TERMINAL & set(file.getvalue())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_commands_speak_what_the_terminal_can_show(
    encoding: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is written can be encoded, and the signs of tables are spelt, not lost."""
    tokenizer = tiny.byte_level()
    tokenizer.save_pretrained(tmp_path / "näme – 日本")
    (tmp_path / "text.txt").write_text("some words of text\n" * 9)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for words in (
        ("list",),
        ("info", "fastervlm"),
        ("info", "naïve – 日本"),
        ("--help",),
        ("reduce", "compare", "--help"),
        (
            "reduce",
            "compare",
            model_folder,
            "-b",
            "25%",
            "--limit",
            "2",
            "--max-new-tokens",
            "2",
            "-o",
            tmp_path / "out–",
        ),
        ("vocab", "compare", tmp_path / "näme – 日本", "-t", tmp_path / "text.txt"),
    ):
        found = spoken(encoding, *words)
        assert found.exit_code in (0, 2), found.output
        found.stdout_bytes.decode(encoding)
        assert b"?" * 2 not in found.stdout_bytes


def spoken(encoding: str, *words: str | Path) -> Result:
    """A command, as if standard output and error had an encoding."""
    return CliRunner(charset=encoding).invoke(app, [str(word) for word in words])


def test_signs_are_spelt_and_what_is_left_is_told_apart() -> None:
    terminal.speak_any_encoding()
    shown = "1–2 −3 4× → … ≥ “q” é 日 \udce9"
    assert shown.encode("ascii", "tokenry.spelled") == rb"1-2 -3 4x > . > 'q' \u00e9 \u65e5 \udce9"
    assert (
        shown.encode("cp1252", "tokenry.spelled").decode("cp1252") == "1–2 -3 4× > … > “q” é \\u65e5 \\udce9"
    )
    assert "é – \udce9".encode("utf-8", "tokenry.spelled").decode() == "é – \\udce9"


@pytest.mark.parametrize(
    "changes", [{"PYTHONIOENCODING": "ascii:strict"}, {"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C"},
                {"NO_COLOR": "1", "TERM": "dumb"}]
)  # fmt: skip
def test_a_process_with_such_a_terminal_ends_well(changes: dict[str, str]) -> None:
    with started("info", "fastervlm – 日本", **changes) as run:
        _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert said.startswith("error: ")
    assert not {"\x1b", "\ufffd"} & set(said)


def test_a_plain_console_would_have_sent_it() -> None:
    """The tests above can fail."""
    file = io.StringIO()
    Console(file=file, width=200).print(Text("\x1b[2J"))
    assert "\x1b" in file.getvalue()
