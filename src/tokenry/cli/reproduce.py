"""`tokenry reproduce`: does a paper's claim hold, on a small scale?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tokenry.cli import options
from tokenry.cli.groups import Loading
from tokenry.cli.terminal import knowing, say, screen

if TYPE_CHECKING:
    from tokenry.bench.reproduce import Reproduction


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("reproduce")(reproduce_systems)


def reproduce_systems(
    systems: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Names from `tokenry list`.", show_default=False),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All systems that have a reproduction.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for results.", show_default="docs/results")
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option(help="Folder with NAME.yaml.", show_default="recipes/reproduce")
    ] = None,
    model: Annotated[
        str, typer.Option(help="'embedded', or a folder with another training of it.")
    ] = "embedded",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what earlier runs have answered.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Run studies in seconds, to see that they run; needs --out.")
    ] = False,
    threads: options.ThreadsOption = None,
) -> None:
    """Run small-scale reproductions, at most ten minutes each, and write their results.

    Answers and checkpoints are kept in a cache as they come (TOKENRY_CACHE, ~/.cache/tokenry); the same command
    continues where it was interrupted.
    """
    from tokenry.bench import environment, reproduce
    from tokenry.data.packages import cache_folder
    from tokenry.tokens import InputError

    if bool(systems) == every:
        raise InputError(f"Name systems, or give --all. There are {', '.join(reproduce.systems())}.")
    chosen = reproduce.systems() if every else tuple(systems or ())
    plans = [reproduce.find(slug, recipes=recipes, out=out) for slug in chosen]  # mistakes before any work
    if rehearse:
        if out is None:
            raise InputError("A rehearsal measures nothing: say with --out where its results go instead.")
        plans = [replace(plan, recipe=plan.recipe.rehearsal()) for plan in plans]
    asking = [plan for plan in plans if plan.recipe.questions is not None]
    studies = [plan for plan in plans if plan.recipe.questions is None]
    cache = cache_folder() / "reproduce"
    so_far = f"What was done so far is in {cache}; the same command continues there."
    with knowing(so_far), environment.limit_threads(threads):
        if asking:
            loaded, processor = Loading(device="cpu").load(model)
            name = options.display_name(model)
            with reproduce.open_lab(
                loaded, processor, name=name, cache=cache, fresh=fresh, progress=True
            ) as lab:
                for plan in asking:
                    _show(reproduce.reproduce(plan, lab))
        for plan in studies:
            _show(reproduce.reproduce(plan, cache=cache / "studies", fresh=fresh))


def _show(done: Reproduction) -> None:
    console = screen()
    values = done.values
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{values['system']}: {done.verdict}"
    for heading in ("criterion", "bound", "measured", "95 % interval", "holds"):
        table.add_column(heading)
    for means, judged in values["criteria"].items():
        kind = next(k for k in ("at least", "at most", "above") if k in judged)
        low_high = judged.get("interval")
        table.add_row(
            means + (" (decisive)" if judged["decisive"] else ""),
            f"{kind} {judged[kind]:g}",
            f"{judged['value']}",
            f"{low_high[0]} .. {low_high[1]}" if low_high else "",
            "yes" if judged["holds"] else "no",
        )
    console.print(table)
    for name in ("ours", "baseline", "full"):
        if (arm := values.get(name)) is not None:
            measured = f"{100 * arm['accuracy']:.1f} %" if "accuracy" in arm else f"{arm['value']:.4g}"
            console.print(f"{arm['what']}: {measured}")
    if "metric" in values:
        console.print(f"({values['metric']})")
    say(f"Result: {done.path}\n")
