"""The command-line application: commands by noun, what all of them share, and what they were called before.

A command module has a function `register(app)` that adds its commands, and imports torch, transformers and the rooms
that need them inside its commands, so that `tokenry list` and `tokenry --help` stay instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from tokenry.cli import (
    catalog,
    check,
    compare,
    decode_bench,
    demo,
    hypernet,
    report,
    reproduce,
    run,
    terminal,
    train,
    transplant,
    tune,
    vocab,
)
from tokenry.tokens.errors import TokenryError

_COMMANDS: Final = (catalog, demo, train, reproduce)
_GROUPS: Final[Mapping[str, tuple[str, tuple[ModuleType, ...]]]] = MappingProxyType(
    {
        "reduce": (
            "Run a vision-language model on fewer visual tokens, and see what it costs.",
            (run, compare, tune, report, check),
        ),
        "decode": ("Faster ways to write the same text.", (decode_bench,)),
        "vocab": (
            "Train vocabularies, compare them on text, and move models to them.",
            (vocab, transplant, hypernet),
        ),
    }
)  # a new command module is one entry here, or in _COMMANDS


@dataclass(frozen=True)
class _Renamed:
    """A command of version 0.1: what it is called now, and those of its options that are called otherwise."""

    now: str
    options: Mapping[str, str] = field(default_factory=dict)

    def words(self, old: str, words: list[str]) -> list[str]:
        """A command line of today for one of version 0.1, told on standard error."""
        found = []
        for word in words:
            option, equals, value = word.partition("=")
            found.append(self.options.get(option, option) + equals + value)
        also = "".join(f", {a} is {b}" for a, b in self.options.items() if words != found)
        terminal.say(
            f"`tokenry {old}` is now `tokenry {self.now}`{also}; the old name goes with the next release.",
            err=True,
        )
        return [*self.now.split(), *found]


_RENAMED: Final[Mapping[str, _Renamed]] = MappingProxyType(
    {
        **{name: _Renamed(f"reduce {name}") for name in ("run", "compare", "tune", "report", "check")},
        **{name: _Renamed(f"vocab {name}") for name in ("transplant", "hypernet")},
        "decode-bench": _Renamed("decode bench", {"--new-tokens": "--max-new-tokens"}),
    }
)


class _Group(TyperGroup):
    """How every command begins and ends.

    Its output fits the terminal's encoding. A `TokenryError` is one line on stderr (`TOKENRY_DEBUG=1` keeps the
    traceback); Ctrl-C and SIGTERM end it with one line and the exit code that shells expect; a reader that has gone
    away (``tokenry list | head -1``) ends it quietly.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the application."""
        terminal.speak_any_encoding()
        return super().main(*args, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that a command line names; `ctx` is click's context."""
        if args and args[0] in _RENAMED:
            args = _RENAMED[args[0]].words(args[0], args[1:])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; `ctx` is click's context."""
        try:
            with terminal.stoppable():
                result = super().invoke(ctx)
                sys.stdout.flush()  # here, where a closed pipe is expected
                return result
        except TokenryError as error:
            if os.environ.get("TOKENRY_DEBUG") == "1":
                raise
            terminal.say_error(error)
            raise typer.Exit(terminal.USER_ERROR) from error
        except KeyboardInterrupt as stopped:
            raise typer.Exit(terminal.say_stopped(stopped)) from None
        except BrokenPipeError:
            terminal.close_pipe()
            raise typer.Exit(terminal.PIPE_CLOSED) from None


app = typer.Typer(
    cls=_Group,
    name="tokenry",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Everything that happens to a token: run the models you have on fewer or better ones, and see what it costs.",
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        terminal.say(f"tokenry {metadata.version('tokenry')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass  # the options of `tokenry` itself act in their callbacks


for _module in _COMMANDS:
    _module.register(app)
for _name, (_help, _modules) in _GROUPS.items():
    _group = typer.Typer(no_args_is_help=True, help=_help)
    for _module in _modules:
        _module.register(_group)
    app.add_typer(_group, name=_name)

if __name__ == "__main__":
    app()
