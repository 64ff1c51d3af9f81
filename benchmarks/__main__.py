"""``python -m benchmarks [PART ...] [--rounds N]``: speed against peers and against the limit."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import torch
import typer
from rich.console import Console

from tokenry.tokens import UnknownNameError

PARTS = (
    "prefill",
    "selection",
    "probe",
    "startup",
    "vocabularies",
    "lib_encode",
    "merge_queue",
    "transplant",
    "byte_sampling",
    "hat",
    "mrt5",
    "acm",
    "duo",
    "decoding",
    "folders",
    "intervals",
    "dinov2_heads",
)


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Which of {', '.join(PARTS)}; all by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds in which every way runs once.")] = 15,
) -> None:
    """Run benchmarks on one thread and store the results under docs/results."""
    torch.set_num_threads(1)
    if unknown := sorted(set(parts or ()) - set(PARTS)):
        raise UnknownNameError(f"No benchmark is called {unknown[0]!r}; there are {', '.join(PARTS)}.")
    for part in parts or PARTS:
        import_module(f"benchmarks.{part}").run(Console(width=150), rounds)


if __name__ == "__main__":
    typer.run(main)
