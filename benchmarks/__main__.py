"""``python -m benchmarks [prefill selection probe startup] [--rounds N]``"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks import prefill, probe, selection, startup

PARTS = {"prefill": prefill.run, "selection": selection.run, "probe": probe.run, "startup": startup.run}


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which of {', '.join(PARTS)}; all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds in which every way runs once.")] = 15,
) -> None:
    """Run benchmarks on one thread and store the results under docs/results."""
    torch.set_num_threads(1)
    for part in parts or PARTS:
        PARTS[part](Console(width=150), rounds)


if __name__ == "__main__":
    typer.run(main)
