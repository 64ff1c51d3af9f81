"""What restrictions hide of a layer's attention: columns with what they are, and masks without what is hidden."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.hosts.masks import additive, visible
from tokenry.hosts.reducing import layout
from tokenry.tokens import ColumnKind, Columns, ReductionError, Restriction


def column_kinds(visual: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """What the columns of sequences are, as `ColumnKind`, padding aside."""
    return torch.where(visual, ColumnKind.VISUAL, ColumnKind.AFTER * (visual.cumsum(1) > 0).long())


def columns_at(visual: Bool[Tensor, "b t"], places: Int[Tensor, "b m"]) -> Columns:
    """Columns of the full sequence, with what they are.

    Args:
        visual: the visual columns of the full sequence.
        places: which columns; -1 = padding.
    """
    return Columns(
        layout.take(column_kinds(visual), places).masked_fill(places < 0, ColumnKind.PADDING), places
    )


def restricted(
    mask: Tensor | None, layer: int, queries: Columns, keys: Columns, restricting: Sequence[Restriction]
) -> Tensor:
    """A layer's mask without what restrictions hide; padding queries see what they saw.

    Args:
        mask: without them, bool or additive; None = plain causality.
        layer: the decoder layer.
        queries: the columns that look.
        keys: the columns that are looked at.
        restricting: the restrictions of this layer.

    Raises:
        ReductionError: a token is left without any key, and a softmax over none is no attention.
    """
    if mask is None:
        mask = keys.place[:, None, None, :] <= queries.place[:, None, :, None]
    allowed = torch.ones_like(mask[:, :1], dtype=torch.bool)
    for restriction in restricting:
        allowed = allowed & restriction.visible(layer, queries, keys)[:, None]
    allowed |= (queries.place < 0)[:, None, :, None]
    seen = visible(mask) & allowed
    if not bool(seen.any(-1).all()):
        names = ", ".join(restriction.slug for restriction in restricting)
        raise ReductionError(
            f"{names} hides every key from a token in layer {layer}; let each token see at least itself."
        )
    return seen if mask.dtype == torch.bool else additive(seen, mask.dtype)
