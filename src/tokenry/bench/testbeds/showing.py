"""Pictures shown otherwise than they are: grey, small, or small and blown up again."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from tokenry.bench.reproduce.vqa.question_sets import Showing
from tokenry.hosts import Host, interpolated_positions
from tokenry.tokens import HALF, InputError

_GREY: Final = (128, 128, 128)
_ASPECT: Final = 1.25  # how far a grid's aspect may be off
_SIDES: Final = ("shortest_edge", "longest_edge", "height", "width")


@dataclass(frozen=True)
class Grey(Showing):
    """A grey picture of the same size in place of each."""

    def image(self, image: Image.Image) -> Image.Image:
        """All grey."""
        return Image.new("RGB", image.size, _GREY)


@dataclass(frozen=True)
class BlownUp(Showing):
    """Each picture scaled down to a share of its pixels and up again: as many tokens, less in them.

    Attributes:
        share: of the pixels.
    """

    share: float

    def image(self, image: Image.Image) -> Image.Image:
        """Both ways by antialiased bicubic interpolation."""
        side = math.sqrt(self.share)
        small = [max(1, round(side * length)) for length in image.size]
        return image.resize((small[0], small[1]), Image.Resampling.BICUBIC).resize(
            image.size, Image.Resampling.BICUBIC
        )


@dataclass(frozen=True)
class SmallerGrid(Showing):
    """A smaller input of an encoder of fixed size: fewer patches each way, with interpolated position embeddings.

    Attributes:
        old, new: patches each way, of the model's own grid and of the one that is shown.
    """

    old: int
    new: int

    def processor(self, processor: Any) -> Any:
        """A copy whose pictures are smaller."""
        processor = copy.copy(processor)
        processor.image_processor = copy.copy(processor.image_processor)
        for name in ("size", "crop_size"):
            sides = getattr(processor.image_processor, name, None)
            if sides is not None:
                scaled = {k: sides[k] * self.new // self.old for k in _SIDES if sides.get(k) is not None}
                setattr(processor.image_processor, name, type(sides)(**scaled))
        return processor

    def around(self, host: Host) -> AbstractContextManager[None]:
        """Position embeddings are interpolated."""
        return interpolated_positions(host)


@dataclass(frozen=True)
class SmallerPicture(Showing):
    """A smaller picture before an encoder that takes every size: fewer patches, as they are.

    Attributes:
        share: of the tokens.
        cell: pixels of a visual token each way.
        most: tokens that the processor gives a picture at most.
    """

    share: float
    cell: int
    most: int

    def image(self, image: Image.Image) -> Image.Image:
        """Resized once, by antialiased bicubic interpolation, to the cells that the share leaves."""
        cells = min(self.most, round(image.width / self.cell) * round(image.height / self.cell))
        columns, rows = fitting_grid(image.width, image.height, max(1, math.floor(self.share * cells + HALF)))
        return image.resize((columns * self.cell, rows * self.cell), Image.Resampling.BICUBIC)

    def processor(self, processor: Any) -> Any:
        """A copy that leaves small pictures small."""
        processor = copy.copy(processor)
        processor.image_processor = copy.copy(processor.image_processor)
        bounds = processor.image_processor.size
        processor.image_processor.size = type(bounds)(**dict(bounds) | {"shortest_edge": self.cell**2})
        return processor


def fitting_grid(width: int, height: int, cells: int) -> tuple[int, int]:
    """(columns, rows) of the largest grid of at most so many cells whose aspect is within a factor of 1.25 of the
    picture's, of equally large ones the closest; where there is none, the closest aspect.

    Raises:
        InputError: no cells.
    """
    if cells < 1:
        raise InputError(f"A picture has at least one visual token, but {cells!r} are asked for.")
    wanted = math.log(width / height)

    def off(grid: tuple[int, int]) -> float:
        return abs(math.log(grid[0] / grid[1]) - wanted)

    grids = [(columns, rows) for columns in range(1, cells + 1) for rows in range(1, cells // columns + 1)]
    near = [grid for grid in grids if off(grid) <= math.log(_ASPECT)]
    if not near:
        return min(grids, key=lambda grid: (off(grid), -grid[0] * grid[1]))
    return min(near, key=lambda grid: (-grid[0] * grid[1], off(grid)))
