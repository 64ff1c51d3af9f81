"""The command-line application: what every command shares, and the list of command modules.

A command module has a function `register(app)` that adds its commands, and imports torch, transformers and the rooms
that need them inside its commands, so that `tokenry list` and `tokenry --help` stay instant.
"""

from __future__ import annotations

import os
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
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
    """Turns a `TokenryError` into one line on stderr; `TOKENRY_DEBUG=1` keeps the traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command; `ctx` is click's context."""
        try:
            return super().invoke(ctx)
        except TokenryError as error:
            if os.environ.get("TOKENRY_DEBUG") == "1":
                raise
            Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="bold red"))
            raise typer.Exit(USER_ERROR) from error


app = typer.Typer(
    cls=_Group,
    name="tokenry",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Everything that happens to a token: run the models you have on fewer or better ones, and see what it costs.",
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"tokenry {metadata.version('tokenry')}")
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
