"""The command-line application: what every command shares, and the list of command modules.

A command module has a function `register(app)` that adds its commands, and imports torch, transformers and the rooms
that need them inside its commands, so that `tokenry list` and `tokenry --help` stay instant.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated, Any

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
    transplant,
    tune,
    vocab,
)
from tokenry.tokens.errors import TokenryError

_COMMANDS = (
    catalog,
    demo,
    run,
    compare,
    tune,
    report,
    check,
    vocab,
    transplant,
    hypernet,
    decode_bench,
    reproduce,
)  # a new command module is one entry here

USER_ERROR = 2  # exit code when the user's input was wrong, as for a wrong option


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
            raise typer.Exit(USER_ERROR) from error
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

if __name__ == "__main__":
    app()
