"""Command lines that are printed somewhere: is there such a command, with such options?"""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from typer.main import get_command

from tokenry.cli.main import app

ROOT = Path(__file__).parents[2]
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
_ELSEWHERE = ("cd", "git", "pip")  # not ours


def check(line: str) -> None:
    """Parse a command line as it would be when it is run, without running it.

    Raises:
        Exception: what the parser says; AssertionError if there is nothing to run.
    """
    for part in line.split("&&"):
        match shlex.split(part, comments=True):
            case []:
                pass  # a comment
            case ["tokenry", *rest]:
                _parse(rest)
                _require(rest)
            case ["make", target, *_]:
                assert target in _TARGETS, f"the Makefile has no target {target}"
            case ["python" | "accelerate", *rest] if "-m" in rest:
                module, *arguments = rest[rest.index("-m") + 1 :]
                assert find_spec(module) is not None, f"there is no module {module}"
                _require(arguments)
                if module == "tokenry":
                    _parse(arguments)
            case [program, *_]:
                assert program in _ELSEWHERE, f"nothing knows how to run {part!r}"


def _require(arguments: list[str]) -> None:
    files = [file for file in arguments if file.startswith(("recipes/", "docs/"))]
    assert [file for file in files if not (ROOT / file).exists()] == []


def _parse(words: list[str]) -> None:
    command: Any = get_command(app)
    path = "tokenry"
    while commands := getattr(command, "commands", None):
        name, *words = words
        path = f"{path} {name}"
        assert name in commands, f"there is no {path}"
        command = commands[name]
    command.make_context(path, words).close()
