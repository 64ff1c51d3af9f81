"""`tokenry reproduce`: does a paper's claim hold, on a small scale?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tokenry.cli import options
from tokenry.cli.groups import Loading
from tokenry.cli.terminal import knowing, say, screen

if TYPE_CHECKING:
    from tokenry.bench.reproduce import Plan, Reproduction, VqaLab


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
    designs: Annotated[
        Path | None, typer.Option(help="Folder with NAME.yaml.", show_default="reproductions/ROOM")
    ] = None,
    model: Annotated[
        str, typer.Option(help="'embedded', or a folder with another training of it.")
    ] = "embedded",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what earlier runs have answered.")] = False,
    rehearse: Annotated[
        bool,
        typer.Option("--rehearse", help="Run all of the code in seconds, to see that it runs; needs --out."),
    ] = False,
    threads: options.ThreadsOption = None,
) -> None:
    """Run small-scale reproductions, at most ten minutes each, and write their results; needs a checkout of tokenry.

    Answers and checkpoints are kept in a cache as they come (TOKENRY_CACHE, ~/.cache/tokenry); the same command
    continues where it was interrupted.
    """
    from tokenry.bench import environment, reproduce
    from tokenry.data.packages import cache_folder
    from tokenry.tokens import InputError

    if bool(systems) == every:
        raise InputError(f"Name systems, or give --all. There are {', '.join(reproduce.systems())}.")
    chosen = reproduce.systems() if every else tuple(systems or ())
    plans = [reproduce.find(slug, designs=designs, out=out) for slug in chosen]  # mistakes before any work
    if rehearse:
        if out is None:
            raise InputError("A rehearsal measures nothing: say with --out where its results go instead.")
        plans = [replace(plan, design=plan.design.rehearsal()) for plan in plans]
    cache = cache_folder() / "reproduce"

    @once
    def lab() -> VqaLab:
        loaded, processor = Loading(device="cpu").load(model)
        opened = reproduce.VqaLab(loaded, processor, options.display_name(model), cache, progress=True)
        if fresh:
            opened.forget()
        return opened

    so_far = f"What was done so far is in {cache}; the same command continues there."
    with knowing(so_far), environment.limit_threads(threads):
        for plan in plans:
            _show(plan, reproduce.reproduce(plan, lab=lab, cache=cache / "studies", fresh=fresh))


def _show(plan: Plan, done: Reproduction) -> None:
    from tokenry.bench import reproduce

    console = screen()
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"{done.system}: {done.verdict}"
    for heading in ("criterion", "bound", "measured", "95 % interval", "holds"):
        table.add_column(heading)
    for judged in done.criteria:
        criterion, shown = judged.criterion, judged.measured.to_json(reproduce.BY_SEED)
        table.add_row(
            criterion.means + (" (decisive)" if criterion.decisive else ""),
            f"{criterion.kind.replace('_', ' ')} {criterion.bound:g}",
            f"{shown['value']}",
            " .. ".join(map(str, shown.get("interval", ()))),
            "yes" if judged.holds else "no",
        )
    console.print(table)
    for arm in (done.ours, done.baseline, *([done.full] if done.full else [])):
        if arm.value is not None:
            value = f"{arm.value:.4g}" if done.questions is None else f"{100 * arm.value:.1f} %"
            console.print(f"{arm.what}: {value}")
    console.print(f"({done.metric})")
    say(f"Result: {plan.path}\n")
