"""The report of a comparison: one HTML page that needs nothing but itself, with its charts and overlays as PNG."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tokenry.bench.reducers import plots
from tokenry.bench.reducers.arms import FULL
from tokenry.bench.reducers.overlay import contact_sheet, decode_picture
from tokenry.bench.reducers.page import AXES, readable, render, traced
from tokenry.bench.reducers.results import FILE_NAME, Results, read_results
from tokenry.bench.reducers.summary import Row, summarise
from tokenry.tokens import InputError
from tokenry.tokens.files import whole_file

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: the HTML page.
        pictures: PNG files beside it.
        skipped: unreadable lines of the results file.
    """

    page: Path
    pictures: tuple[Path, ...]
    skipped: int


def results_file(given: str | Path) -> Path:
    """The results file, of a folder the one in it."""
    path = Path(given)
    return path / FILE_NAME if path.is_dir() else path


def write_report(file: str | Path, out: str | Path | None = None) -> Report:
    """Write the report of a results file: the last setting in it.

    Args:
        file: what `compare` wrote, or the folder that it lies in.
        out: folder for the report; that of the file by default.

    Raises:
        InputError: no such file, nothing readable in it, or a folder that cannot be written.
    """
    file = results_file(file)
    results = read_results(file)
    rows = summarise(results)
    if not any(row.examples for row in rows) and not results.failures:
        raise InputError(f"{file} holds no results yet: nothing was measured before the comparison stopped.")
    folder = Path(out) if out is not None else file.parent
    text, files = render(results), _pictures(results, rows)
    with whole_file(folder / PAGE) as at:
        # Halves of surrogate pairs, which names of files may hold, have no UTF-8.
        at.write_text(text, encoding="utf-8", errors="backslashreplace")
    for name, image in files:
        with whole_file(folder / name) as at:
            image.save(at, "PNG")
    return Report(folder / PAGE, tuple(folder / name for name, _ in files), results.skipped)


def _pictures(results: Results, rows: Sequence[Row]) -> list[tuple[str, Image.Image]]:
    """Charts and overlays by file name."""
    files: list[tuple[str, Image.Image]] = []
    for name in AXES:
        canvas = plots.tradeoff(rows, name)
        if canvas is not None:
            files.append((f"score-{name.replace('_', '-')}.png", plots.with_legend(canvas, rows).png()))
    methods = [m for m in dict.fromkeys(r.method for r in rows) if m != FULL]
    for picture, item, shown in traced(results):
        if not readable(picture):
            continue
        arms = {(r.method, r.budget): r for r in shown}
        budgets = list(dict.fromkeys(r.budget for r in rows if r.budget))
        cells = [
            [(f"{m}, {b}", r.trace if (r := arms.get((m, b))) is not None else None) for b in budgets]
            for m in methods
        ]
        sheet = contact_sheet(decode_picture(picture.data), cells, shown[0].question)
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", picture.name).strip("-.") or "picture"
        files.append((f"overlays/{stem[:60]}-{item[:6]}.png", sheet))
    return files
