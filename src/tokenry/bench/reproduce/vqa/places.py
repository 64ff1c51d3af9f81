"""Where on its picture each visual token lies: the share of its patch that given boxes cover, whatever the layout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tokenry.data.questions.examples import region_cover
from tokenry.data.scenes.scenes import Box
from tokenry.hosts import Pictures


def token_cover(
    pictures: Pictures, item: int, boxes: Sequence[Box], size: tuple[int, int]
) -> Float[np.ndarray, " n"] | None:
    """The share of each token's patch that one of the boxes covers; 0 for tokens of no patch (newlines between rows).

    The encoder is taken to see the picture whole: on one grid, or as a thumbnail with crops, which together cover the
    picture in the middle of their canvas (LLaVA-NeXT's layout).

    Args:
        pictures: what the encoder delivered.
        item: which picture of them.
        boxes: pixel boxes (x0, y0, x1, y1).
        size: (height, width) of the picture in pixels.

    Returns:
        None where it is not known which token is which patch.
    """
    if is_tiled(pictures, item):
        return _of_tiles(pictures, item, boxes, size)
    frames, rows, columns = pictures.grid[item].tolist()
    if frames != 1 or rows * columns != pictures.lengths[item] or rows == 1 < columns:
        return None
    return region_cover(boxes, size, (rows, columns)).reshape(-1)


def is_tiled(pictures: Pictures, item: int) -> bool:
    """Whether a picture was cut into tiles."""
    return bool((pictures.numbers(item) > 0).any())


def _of_tiles(
    pictures: Pictures, item: int, boxes: Sequence[Box], size: tuple[int, int]
) -> Float[np.ndarray, " n"] | None:
    tiles, side = pictures.tiles[item] if pictures.tiles else (0, 0), pictures.side
    if pictures.cell is None or side is None or 0 in tiles:
        return None
    tile, cell = pictures.numbers(item).cpu().numpy(), pictures.cell[item].cpu().numpy()
    whole = region_cover(boxes, size, (side, side)).reshape(-1)
    # Crops: the picture lies in the middle of a canvas of tiles, scaled until it fits.
    (height, width), (rows, columns) = size, tiles
    pixels = max(height / rows, width / columns)  # of the picture in a tile, each way
    canvas = (rows * pixels, columns * pixels)
    down, right = (canvas[0] - height) / 2, (canvas[1] - width) / 2
    moved = [(x0 + right, y0 + down, x1 + right, y1 + down) for x0, y0, x1, y1 in boxes]
    crops = region_cover(moved, canvas, (rows * side, columns * side))
    crops = crops.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1)
    every = np.concatenate([whole, crops])
    return np.where(tile < 0, 0.0, every[np.maximum(tile * side * side + cell, 0)])
