"""`tokenry reduce run`: one question about one picture, on fewer tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tokenry.catalog.registry import default
from tokenry.cli import options
from tokenry.cli.groups import Loading, spread
from tokenry.cli.terminal import say, screen, visible
from tokenry.tokens.files import whole_file


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("run")(spread(run_once))


def run_once(
    model: options.Model,
    image: Annotated[Path, typer.Argument(help="A picture.", show_default=False)],
    question: Annotated[str, typer.Argument(help="A question about it.", show_default=False)],
    loading: Loading,
    method: Annotated[
        str,
        typer.Option(
            "--method", "-m", help="A name from `tokenry list --room reduce`, or JSON as tune prints it."
        ),
    ] = default("reducer"),
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="64, 25%, 0.5:25%, total:256 ...; default: 25%.")
    ] = None,
    compare_full: Annotated[bool, typer.Option(help="Ask on all tokens too, and show both.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the overlay to this PNG file or folder.")
    ] = None,
    positions: options.PositionsOption = None,
    max_new_tokens: options.TokensOption = 64,
) -> None:
    """Ask MODEL a question about a picture on fewer visual tokens, and show what that saved."""
    loading.require(model)
    from tokenry import bench
    from tokenry.bench.reducers.arms import named
    from tokenry.reduce import read_methods
    from tokenry.reduce.registry import is_json

    limit = budget if budget is not None or is_json(method) else "25%"
    # told before the model is loaded
    members = read_methods(method, **({} if limit is None else {"budget": limit}))
    picture = bench.open_picture(image)
    target = _target(out, image)
    loaded, processor = loading.load(model)
    found = bench.ask(
        loaded,
        processor,
        picture,
        question,
        method,
        limit,
        positions=positions,
        compare_full=compare_full,
        max_new_tokens=max_new_tokens,
    )
    shown = screen()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    if found.full is not None:
        table.add_row("all tokens", found.full.text or "(nothing)")
    table.add_row(" ".join(named(members)), Text(visible(found.reduced.text or "(nothing)"), style="bold"))
    shown.print(table)
    costs = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    costs.add_column("")
    costs.add_column("all tokens", justify="right")
    costs.add_column("reduced", justify="right")
    for what, full, mine in found.costs():
        costs.add_row(what, full, mine)
    shown.print()
    shown.print(costs)
    if target is not None:
        with whole_file(target) as scratch:
            found.overlay().save(scratch, "PNG")
        say(f"\nOverlay: {target}")


def _target(out: Path | None, image: Path) -> Path | None:
    """The overlay's file, its folder made."""
    if out is None:
        return None
    folder, name = (out.parent, out.name) if out.suffix.lower() == ".png" else (out, f"{image.stem}-kept.png")
    options.check_writable(folder)
    return folder / name
