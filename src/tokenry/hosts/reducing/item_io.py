"""Moving tokens between sequences and items: out to a method, merged ones back in, and on to the next segment."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.call import DecoderCall, Segment
from tokenry.hosts.reducing.items import Items
from tokenry.tokens import DenseReduction, Reduction
from tokenry.tokens.precision import without_autocast


def of_items(items: Items, place: Int[Tensor, "b t"]) -> Int[Tensor, "items n"]:
    """Where the items' tokens stand in a layout, given where every column stands."""
    slot = place[items.row[:, None], items.columns.clamp(min=0)]
    return slot.masked_fill(items.columns < 0, -1)


def _flat(items: Items, slot: Int[Tensor, "items n"], width: int) -> Int[Tensor, "items n"]:
    return items.row[:, None] * width + slot.clamp(min=0)


def take_items(
    hidden: Float[Tensor, "b m d"], items: Items, slot: Int[Tensor, "items n"]
) -> Float[Tensor, "items n d"]:
    """The items' tokens out of the sequences; padding is zero."""
    taken = hidden.flatten(0, 1)[_flat(items, slot, hidden.shape[1])]
    return taken.masked_fill((slot < 0)[..., None], 0)


def merge(
    hidden: Float[Tensor, "b m d"],
    *,
    items: Items,
    slot: Int[Tensor, "items n"],
    reduction: Reduction | DenseReduction,
    target: Int[Tensor, "items k"],
) -> Float[Tensor, "b m d"]:
    """Write a reduction's outputs to the places of their anchors."""
    with without_autocast(hidden):
        outputs = reduction.apply(take_items(hidden, items, slot))
    real = target >= 0
    places = _flat(items, target, hidden.shape[1])[real]
    return hidden.flatten(0, 1).index_copy(0, places, outputs[real]).view_as(hidden)


def mark(keep: Bool[Tensor, "b t"], items: Items, value: bool) -> Bool[Tensor, "b t"]:
    """The mask of columns with all of the items' columns set to `value`."""
    real = items.columns >= 0
    rows = items.row[:, None].expand_as(items.columns)
    return keep.index_put((rows[real], items.columns[real]), torch.tensor(value, device=keep.device))


def gather(
    call: DecoderCall, before: Segment, segment: Segment, hidden: Float[Tensor, "b m d"]
) -> Float[Tensor, "b k d"]:
    """The hidden states of a segment out of those of the segment before."""
    taken = layout.take(hidden, call.places(before, segment.columns))
    return taken.masked_fill((segment.columns < 0)[..., None], 0)


def text_after(
    call: DecoderCall, items: Items, hidden: Float[Tensor, "b m d"], columns: Int[Tensor, "b m"]
) -> tuple[Float[Tensor, "items l d"], Int[Tensor, " items"]]:
    """The text that follows each item's picture in its sequence: token embeddings, or what a layer has made of them.

    Args:
        call: the call.
        items: its items, also those that have lost their tokens.
        hidden: the sequences as they are now.
        columns: the columns that are left in them.
    """
    kinds = call.kinds_of(columns)
    text = (kinds == 0) | (kinds == 2)
    after = text[items.row] & (columns[items.row] > call.ends[:, None])
    chosen = Reduction.from_mask(after)
    return chosen.apply(hidden[items.row]), chosen.count
