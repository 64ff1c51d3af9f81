"""What charts have in common: colours that tell series apart, round ticks, and points set side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

PALETTE: Final = (
    "#2f74d0", "#d2691e", "#2a9461", "#8b5fd1", "#cf3f5a", "#1391a3", "#868616", "#c455a0", "#9a6a48", "#5868d8",
)  # fmt: skip
"""Mid-tones that keep a contrast of at least 3:1 on white and on the dark page alike. Form tells apart what colour
cannot (`Canvas.marker`)."""


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values in [low, high]."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` from each other, moved as little as that takes and in their order.

    Least squares under the condition that neighbours keep the gap: isotonic regression of the places less what the gaps
    before them take up. A place that has no neighbour within the gap stays where it is.

    Args:
        places: in any order; of equal ones the first stays first.
        gap: the least distance.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[tuple[float, int]] = []  # mean, members: what is pushed together moves as one
    for rank, i in enumerate(order):
        mean, members = places[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, several = blocks.pop()
            mean = (before * several + mean * members) / (several + members)
            members += several
        blocks.append((mean, members))
    level = [mean for mean, members in blocks for _ in range(members)]
    moved = [0.0] * len(places)
    for rank, i in enumerate(order):
        moved[i] = level[rank] + rank * gap
    return moved
