"""Index arithmetic of shortened sequences: which columns stay, which positions they get, what attends to what.

A *column* is a token's place in the full sequence; a *layout* is a left-padded table of the columns that are left at
one segment of the decoder. Pure functions on tensors; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int, Real
from torch import Tensor


def pack(keep: Bool[Tensor, "b t"]) -> Int[Tensor, "b m"]:
    """The kept columns of each row, padded on the left (with -1) to the longest row."""
    width = int(keep.sum(1).max()) if keep.numel() else 0
    # A stable sort on "is kept" moves the kept columns, in order, to the right end.
    columns = torch.argsort(keep.to(torch.uint8), dim=1, stable=True)[:, keep.shape[1] - width :]
    return columns.masked_fill(~keep.gather(1, columns), -1)


def take(x: Tensor, index: Int[Tensor, "b m"], dim: int = 1) -> Tensor:
    """Gather per row along `dim` of a tensor whose batch dimension lies just before it ([.. b t ..]); -1 takes any."""
    rows = torch.arange(len(index), device=index.device)[:, None] if x.shape[dim - 1] > 1 else 0
    # Indexing copies whole token vectors; gather would look up every number of them.
    return x[(slice(None),) * (dim - 1) + (rows, index.clamp(min=0))]


def take_each(
    arguments: Mapping[str, Any], shape: tuple[int, ...], index: Int[Tensor, "b m"]
) -> dict[str, Any]:
    """Arguments in which tensors with a value per token ([b t ...] for `shape` = (b, t)) hold those of `index`."""
    return {
        name: take(value, index) if isinstance(value, Tensor) and tuple(value.shape[:2]) == shape else value
        for name, value in arguments.items()
    }


def places(columns: Int[Tensor, "b m"], width: int) -> Int[Tensor, "b width"]:
    """Where each of `width` columns stands in a layout: the inverse of `columns`; 0 for columns that are gone."""
    slots = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    place = columns.new_zeros(len(columns), width + 1)  # the last column collects padding
    return place.scatter_(1, columns.masked_fill(columns < 0, width), slots)[:, :width]


def marked(columns: Int[Tensor, "b m"], width: int) -> Bool[Tensor, "b width"]:
    """Which of `width` columns stand in a layout."""
    mask = torch.zeros(len(columns), width + 1, dtype=torch.bool, device=columns.device)
    return mask.scatter_(1, columns.masked_fill(columns < 0, width), True)[:, :width]


def spread(x: Tensor, columns: Int[Tensor, "b m"], width: int, dim: int = 1) -> Tensor:
    """The inverse of `take`: each entry at its column of `width`, zeros elsewhere; -1 goes nowhere.

    Args:
        x: a tensor with the batch first and a layout's tokens at `dim`.
        columns: where each of them stood.
        width: columns of the full sequence.
        dim: the dimension of the tokens.
    """
    slots = columns.masked_fill(columns < 0, width)
    slots = slots.view(len(columns), *[1] * (dim - 1), -1, *[1] * (x.ndim - dim - 1)).expand_as(x)
    full = x.new_zeros(*x.shape[:dim], width + 1, *x.shape[dim + 1 :])
    return full.scatter(dim, slots, x).narrow(dim, 0, width)


def compact(
    full: Real[Tensor, "a b t"],
    columns: Int[Tensor, "b m"],
    real: Bool[Tensor, "b m"],
    visual: Bool[Tensor, "b m"],
) -> Real[Tensor, "a b m"]:
    """Renumber positions as if the dropped tokens had never been there.

    With ordinary RoPE (a = 1), and in rows in which all axes say the same (a marked span of text): 0, 1, 2, ... over
    the row's real tokens. With multi-axis RoPE a picture's tokens keep
    their places relative to each other, since the grid is what their ids say, and text goes on after the largest id
    in use, as it does when the model numbers a shorter picture itself - but never further off than it was: Qwen2.5-VL
    lets the time ids of a video run past the text that follows. Ids that the model itself leaves free between a picture
    and its text (MiniCPM-V 4.7 does) stay free: nothing dropped is nothing moved.

    Args:
        full: position ids of the whole sequence, per RoPE axis.
        columns: the columns that are kept.
        real: which of them are tokens, not padding.
        visual: which of them are visual.
    """
    plain = (real.cumsum(1) - 1).clamp(min=0).expand(full.shape[0], -1, -1)
    ids = take(full, columns, 2)
    out = ids.clone()
    one_axis = (full == full[:1]).all(0).all(1)
    out[:, one_axis] = plain[:, one_axis].to(out)  # some models count in floating point
    highest = full.amax(0).cummax(1).values
    for b in (
        (~one_axis).nonzero()[:, 0].tolist()
    ):  # over rows and their runs of text and of pictures, not over tokens
        tokens = real[b].nonzero()[:, 0]
        kinds, runs = visual[b, tokens].unique_consecutive(return_counts=True)
        shift, top = 0, -1
        for is_visual, run in zip(kinds.tolist(), tokens.split(runs.tolist()), strict=True):
            if not is_visual:
                column = int(columns[b, run[0]])
                own = int(full[0, b, column])
                free = max(0, own - int(highest[b, column - 1]) - 1) if column else 0
                shift = max(shift, own - free - (top + 1))
            out[:, b, run] = ids[:, b, run] - shift
            top = int(out[:, b, run].max())
    return out


def among(columns: Int[Tensor, "b k"], chosen: Int[Tensor, "b m"]) -> Bool[Tensor, "b k"]:
    """Which columns of each row are among the row's chosen ones (-1 is never)."""
    width = max(int(columns.max()), int(chosen.max())) + 1
    marks = torch.zeros(len(columns), width + 1, dtype=torch.bool, device=columns.device)
    marks.scatter_(1, chosen.masked_fill(chosen < 0, width), True)
    return marks[:, :width].gather(1, columns.clamp(min=0)) & (columns >= 0)


def attention_mask(
    queries: Int[Tensor, "b q"],
    keys: Int[Tensor, "b k"],
    real: Bool[Tensor, "b k"],
    window: int | None,
) -> Bool[Tensor, "b 1 q k"] | None:
    """What attends to what, counted in columns of the full sequence, or None where plain causality says it all.

    A query sees the real keys at its own column and before it, not further back than the window. Padding queries
    (column -1) see everything, so that no row of the softmax is empty.
    """
    causal = queries.shape[1] == 1 or queries.shape[1] == keys.shape[1]
    if causal and bool(real.all()) and (window is None or int(keys.max()) - int(keys.min()) < window):
        return None
    q, k = queries[:, :, None], keys[:, None, :]
    mask = (k <= q) & real[:, None, :]
    if window is not None:
        mask &= k > q - window
    return (mask | (q < 0))[:, None]


def crop_mask(
    mask: Tensor, queries: Int[Tensor, "b q"], keys: Int[Tensor, "b k"], real: Bool[Tensor, "b k"]
) -> Tensor:
    """Rows and columns of a full 4-D mask (bool, or float to be added), padding hidden. Keeps what the model drew up
    itself: bidirectional prefixes and pictures, sliding windows."""
    batch = queries.shape[0]
    mask = mask.expand(batch, -1, -1, -1)
    rows = mask.gather(2, queries.clamp(min=0)[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3]))
    both = rows.gather(3, keys.clamp(min=0)[:, None, None, :].expand(-1, mask.shape[1], queries.shape[1], -1))
    hidden = ~real[:, None, None, :]
    if both.dtype == torch.bool:
        return (both & ~hidden) | (queries < 0)[:, None, :, None]
    both = both.masked_fill(hidden, torch.finfo(both.dtype).min)
    return both.masked_fill((queries < 0)[:, None, :, None], 0.0)
