"""``python -m benchmarks.curves``: draw quality against computation from the committed results into docs/assets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.common import RESULTS
from tokenry.bench.charts.canvas import Canvas
from tokenry.tokens.files import whole_file

ASSETS = RESULTS.parent / "assets"
COLOURS = ("#2f74d0", "#d2691e", "#2a9461")
TOP, BOTTOM, LEFT, WIDTH, HEIGHT = 48.0, 300.0, 56.0, 560.0, 390.0


@dataclass(frozen=True)
class Panel:
    """One system: series of (share of the multiply-adds, bits per byte, name of the point).

    Attributes:
        title: above it.
        base: bits per byte of the model as it is.
        series: what is told apart by colour and marker.
    """

    title: str
    base: float
    series: Mapping[str, Sequence[tuple[float, float, str]]]


def duo() -> Panel:
    """Fixed patterns (the best of each number of big layers) and trained routers."""
    rows = _rows("duo")
    fixed: dict[float, tuple[float, float, str]] = {}
    routers, base = [], 0.0
    for row in rows:
        if "bits per byte" not in row:
            continue
        point = (float(row["multiply-adds"]), float(row["bits per byte"]), str(row["routing"]))
        if point[2] == "all big":
            base = point[1]
        if "router" in point[2]:
            routers.append(point)
        elif point[0] not in fixed or point[1] < fixed[point[0]][1]:
            fixed[point[0]] = point
    return Panel("Duo-LLM", base, {"best fixed pattern": sorted(fixed.values()), "trained routers": routers})


def acm() -> Panel:
    """The same number of learners for every token, and gates."""
    forced, gates, base = [], [], 0.0
    for row in _rows("acm"):
        point = (float(row["of SmolLM2's"]), float(row["bits per byte"]), str(row["choice"]))
        if row["learners executed"] is None:
            base = point[1]
        elif " of " in point[2]:
            forced.append(point)
        else:
            gates.append(point)
    return Panel("ACM", base, {"as many learners for every token": sorted(forced), "gates": sorted(gates)})


def draw(panels: Sequence[Panel]) -> Canvas:
    """The panels side by side."""
    canvas = Canvas(WIDTH * len(panels), HEIGHT)
    for i, panel in enumerate(panels):
        _panel(canvas, panel, WIDTH * i)
    return canvas


def _panel(canvas: Canvas, panel: Panel, shift: float) -> None:
    points = [point for series in panel.series.values() for point in series]
    highest = max(max(bits for _, bits, _ in points), panel.base) * 1.05
    left, right = shift + LEFT, shift + WIDTH - 24

    def place(share: float, bits: float) -> tuple[float, float]:
        return left + (right - left) * share / 1.05, BOTTOM - (BOTTOM - TOP) * bits / highest

    canvas.text((shift + 8, 20), f"{panel.title}: bits per byte of SmolLM2", size=13.5, bold=True)
    unit = 0.5 if highest < 4 else 1.0
    for tick in range(int(highest / unit) + 1):
        (x, y), (end, _) = place(0, tick * unit), place(1.05, 0)
        canvas.line([(x, y), (end, y)], "grid")
        canvas.text((x - 8, y + 4), f"{tick * unit:g}", colour="muted", anchor="end")
    for share in (0, 0.25, 0.5, 0.75, 1):
        canvas.text((place(share, 0)[0], BOTTOM + 18), f"{share:.0%}", colour="muted", anchor="middle")
    canvas.text(
        (right, BOTTOM + 36), "multiply-adds of the model that are executed", colour="muted", anchor="end"
    )
    canvas.line([place(0, panel.base), place(1.05, panel.base)], "muted", dash=(5, 4))
    canvas.text((left + 4, place(0, panel.base)[1] - 6), "as it is", colour="muted")
    for number, (name, series) in enumerate(panel.series.items()):
        colour = COLOURS[number]
        canvas.line([place(share, bits) for share, bits, _ in series], colour, width=2)
        for share, bits, label in series:
            canvas.marker(place(share, bits), number, colour, title=f"{label}: {bits:.2f}")
        y = BOTTOM + 58 + 22 * number
        canvas.marker((left + 6, y - 4), number, colour)
        canvas.text((left + 20, y), name)


def _rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / f"bench-{name}.json").read_text())["rows"]
    return found


if __name__ == "__main__":
    with whole_file(ASSETS / "adaptive.png") as scratch:
        draw([duo(), acm()]).png(scale=1).save(scratch, optimize=True)
