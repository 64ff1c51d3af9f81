"""Commands by noun, their names of version 0.1, and options that several commands have."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from tokenry.cli.groups import Comparing, Loading, Printing, spread
from tokenry.cli.main import _RENAMED, app
from tokenry.cli.terminal import USER_ERROR

ROOT: Any = typer.main.get_command(app)


def test_commands_stand_by_noun() -> None:
    assert set(ROOT.commands["reduce"].commands) == {"run", "compare", "tune", "report", "check"}
    assert set(ROOT.commands["decode"].commands) == {"bench"}
    assert set(ROOT.commands["vocab"].commands) == {"train", "compare", "transplant", "hypernet"}


@pytest.mark.parametrize("old", _RENAMED)
def test_old_names_lead_to_the_same_command_and_say_so_in_one_line(old: str) -> None:
    assert old not in ROOT.commands
    now = _RENAMED[old].now
    found, same = (CliRunner().invoke(app, [*words, "--help"]) for words in ([old], now.split()))
    assert found.exit_code == 0
    assert found.stdout == same.stdout
    assert (
        found.stderr == f"`tokenry {old}` is now `tokenry {now}`; the old name goes with the next release.\n"
    )
    assert f"tokenry {old}" not in CliRunner().invoke(app, ["--help"]).stdout


@pytest.mark.parametrize("words", [("--new-tokens", "0"), ("--new-tokens=0",)])
def test_an_old_option_of_an_old_command_is_read(words: tuple[str, ...]) -> None:
    found = CliRunner().invoke(app, ["decode-bench", "smollm2", *words])
    assert found.exit_code == USER_ERROR
    assert "`tokenry decode bench`, --new-tokens is --max-new-tokens;" in found.stderr
    assert "Invalid value" in found.stderr
    assert CliRunner().invoke(app, ["decode", "bench", "smollm2", *words]).exit_code == USER_ERROR


def test_compare_and_tune_share_their_options() -> None:
    compare, tune = (
        {name for one in ROOT.commands["reduce"].commands[which].params for name in one.opts}
        for which in ("compare", "tune")
    )
    assert compare - tune == {"--seeds"}
    assert tune - compare == {"--target", "--max-drop", "--by"}
    for group in (Comparing, Loading, Printing):
        assert {
            f"--{name.removeprefix('as_').replace('_', '-')}" for name in group.__annotations__
        } <= compare


def test_a_group_of_options_is_one_parameter() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Size:
        width: Annotated[int, typer.Option(min=1)] = 3
        deep: Annotated[bool, typer.Option("--deep")] = False

    seen: list[tuple[Any, ...]] = []

    def measure(size: Size, name: Annotated[str, typer.Argument()]) -> None:
        """What it does."""
        seen.append((size, name))

    measure.__annotations__ = {"size": Size, "name": Annotated[str, typer.Argument()], "return": None}
    command = spread(measure)
    assert list(inspect.signature(command).parameters) == ["width", "deep", "name"]
    own = typer.Typer()
    own.command()(command)
    assert "What it does." in CliRunner().invoke(own, ["--help"]).stdout
    assert CliRunner().invoke(own, ["a", "--width", "5", "--deep"]).exit_code == 0
    assert CliRunner().invoke(own, ["b"]).exit_code == 0
    assert CliRunner().invoke(own, ["c", "--width", "0"]).exit_code == USER_ERROR
    assert seen == [(Size(width=5, deep=True), "a"), (Size(), "b")]
