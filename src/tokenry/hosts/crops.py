"""Which of the things that an encoder delivered make one picture: a budget is for a picture with all its crops.

Many models cut a picture into tiles and encode these one by one; what they hand to the language model are tiles. How
many of them make a picture is known to the processor, which says it in the prompt only: by the marks it writes around
and between placeholders. So tiles are put together by these marks, in the ways in which processors write them
(`Tiling`).

What no mark tells is not guessed: crops of Gemma3's pan-and-scan stand in the prompt as pictures of their own do, and
pictures of Idefics2 as their quarters do. Say it with ``crops=[5, 1]``: tiles per picture, as the processor counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.hosts.upstream import Tiling
from tokenry.tokens import InputError


@dataclass(frozen=True)
class Placed:
    """A tile's placeholders in a sequence: the first column, and the one after the last."""

    start: int
    end: int


def joins(tiling: Tiling, ids: Sequence[int], head: Placed, before: Placed, tile: Placed) -> bool:
    """Whether a tile belongs to the same picture as the one before it.

    Args:
        tiling: how the model's processor writes pictures that were cut.
        ids: the tokens of the sequence.
        head: first tile of the picture that the one before belongs to.
        before: the tile before.
        tile: the tile.
    """
    between = list(ids[before.end : tile.start])
    match tiling:
        case Tiling.BETWEEN:
            # Nothing, or one mark: a picture that begins has one of its own, after the one that ends the last.
            return len(between) <= 1
        case Tiling.AROUND:
            return _still_open(ids, between, before, tile)
        case Tiling.SLICES:
            # Slices have other marks than the picture they were cut from, which comes first.
            short = len(between) <= _SLICE_MARKS
            return short and ids[tile.start - 1] != ids[head.start - 1]


_SLICE_MARKS = 3
"""Tokens between two slices: the end of one, a new line, the beginning of the next."""


def _still_open(ids: Sequence[int], between: list[int], before: Placed, tile: Placed) -> bool:
    """Whether a picture that is opened and closed by the same mark has not been closed yet.

    Before each tile stand that mark and one that names the tile; the mark alone, after the last tile, closes a picture.
    """
    if len(between) < 2 or before.start < 2:
        return False
    mark = between[-2]
    if ids[before.start - 2] != mark:
        return False  # not written in this way
    return len(between) == 2 or between[0] != mark


def pictures_of(
    tiling: Tiling | None,
    rows: Sequence[Sequence[int]],
    placed: Sequence[tuple[int, Placed]],
    crops: Sequence[int] | None,
) -> list[int]:
    """How many tiles each picture has, in order of appearance.

    Args:
        tiling: how the model's processor writes pictures that were cut; None = every thing is a picture.
        rows: the tokens of each sequence.
        placed: the tiles in order, each with its row.
        crops: what the user says.

    Raises:
        InputError: the user's counts do not fit.
    """
    if crops is not None:
        if sum(crops) != len(placed) or any(n < 1 for n in crops):
            raise InputError(
                f"`crops` says {list(crops)}, {sum(crops)} tiles together; the encoder delivered {len(placed)}. Give "
                "the number of tiles of every picture, in order of appearance."
            )
        return list(crops)
    counts: list[int] = []
    head = before = Placed(0, 0)
    at = -1
    for row, tile in placed:
        if tiling is not None and row == at and joins(tiling, rows[row], head, before, tile):
            counts[-1] += 1
        else:
            counts.append(1)
            head = tile
        before, at = tile, row
    return counts


def tile_numbers(tile: Int[Tensor, " n"], *, whole_first: bool) -> Int[Tensor, " n"]:
    """Tiles as numbered for methods, given their order in the encoder: the whole picture is 0, its crops 1, 2, ..."""
    last = int(tile.max()) if len(tile) else 0
    if whole_first or last <= 0:
        return tile
    return torch.where(tile < 0, tile, torch.where(tile == last, 0, tile + 1))
