"""``python -m benchmarks.testbeds BED``: hold a test bed against the lines, rank methods on it, probe its checkpoints.

Writes ``docs/results/testbed-NAME.json``, and how far all beds that are there agree, ``docs/results/testbeds.json``;
`make docs-generate` makes the tables of docs/testbeds.md of them. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, provenance
from tokenry.bench.testbeds import BedLab, accuracies, measure_bed, open_bed, rank_agreement
from tokenry.data.packages import cache_folder
from tokenry.tokens.files import whole_file


def main(
    bed: Annotated[str, typer.Argument(help="A model whose card names the scenes that it knows.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder with other weights, of another seed.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the bed is called in results; BED by default.")
    ] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of an earlier checkpoint, to be probed beside; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Questions; 1,000 by default, 400 of a large model.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the held-out scenes.")] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    cache: Annotated[Path | None, typer.Option(help="Folder where answers are kept.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS,
) -> None:
    """Measure one test bed."""
    torch.set_num_threads(threads)
    name = name or (bed if checkpoint is None else f"{bed}-{checkpoint.name}")
    kept = cache or cache_folder() / "testbeds"

    def lab(folder: Path | None, called: str) -> BedLab:
        opened = open_bed(bed, checkpoint=folder, n=limit, seed=seed)
        return BedLab(replace(opened, name=called), kept, progress=True)

    earlier = {folder.name: lab(folder, folder.name) for folder in before or ()}
    found = measure_bed(lab(checkpoint, name), before=earlier).to_json() | provenance()
    del found["clock"]  # times are no part of the verdicts
    _write(out / f"testbed-{name}.json", found)
    _write(out / "testbeds.json", agreement(out))
    _show(found, Console(width=150))


def agreement(folder: Path) -> dict[str, Any]:
    """How far the beds whose results lie in a folder agree on the order of methods."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("testbed-*.json"))]
    ranks = rank_agreement({report["bed"]: accuracies(report) for report in found})
    return {"ranks": [rank.to_json() for rank in ranks]}


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _show(found: dict[str, Any], console: Console) -> None:
    table = Table(
        "line", "bound", "measured", "interval", "verdict", title=found["bed"], title_justify="left"
    )
    for line in found["lines"]:
        table.add_row(*(str(line.get(key, "")) for key in ("line", "bound", "value", "interval", "verdict")))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
