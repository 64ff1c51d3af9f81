"""The baseline that every method has to beat: the picture itself, smaller."""

from __future__ import annotations

import math
from typing import Any, Final

from tokenry.bench.testbeds.asking import BedArm
from tokenry.bench.testbeds.bed import Bed
from tokenry.bench.testbeds.controls import Thumbnail
from tokenry.bench.testbeds.showing import BlownUp, SmallerGrid, SmallerPicture
from tokenry.hosts import interpolated_positions
from tokenry.tokens import UnsupportedError

SMALLER: Final = "a smaller picture"
BLOWN_UP: Final = "a smaller picture, blown up"


def smaller_pictures(bed: Bed, share: float) -> tuple[BedArm, ...]:
    """The ways of asking about smaller pictures: with fewer tokens where the model can, and blown up again.

    Args:
        bed: the bed.
        share: of the tokens, and of the pixels that are seen.
    """
    at = f" ({share:.0%})"
    blown_up = BedArm(BLOWN_UP + at, showing=BlownUp(share))
    return (blown_up,) if why_not_smaller(bed) else (_smaller(bed, share, SMALLER + at), blown_up)


def why_not_smaller(bed: Bed) -> str | None:
    """Why the model cannot be shown a picture with fewer tokens, as a sentence; None if it can."""
    if bed.tiled or bed.any_size:
        return None
    if _grid(bed) is None:
        return "The visual tokens form no grid, so there is no smaller one."
    try:
        with interpolated_positions(bed.host):
            return None
    except UnsupportedError as error:
        return str(error)


def _smaller(bed: Bed, share: float, name: str) -> BedArm:
    if bed.tiled:
        return BedArm(name, ((Thumbnail(),),))
    if bed.any_size:
        settings: Any = bed.processor.image_processor
        cell = settings.patch_size * settings.merge_size
        return BedArm(name, showing=SmallerPicture(share, cell, settings.size["longest_edge"] // cell**2))
    rows = _grid(bed) or 1
    return BedArm(name, showing=SmallerGrid(rows, max(1, math.floor(math.sqrt(share) * rows))))


def _grid(bed: Bed) -> int | None:
    """Rows of the model's grid of tokens; None where they form none."""
    (pictures,) = bed.sample.encoded.pictures.values()
    frames, rows, columns = pictures.grid[0].tolist()
    return rows if frames == 1 and rows * columns == pictures.lengths[0] and rows > 1 else None
