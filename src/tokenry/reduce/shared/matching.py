"""Bipartite soft matching: merge each of r tokens into its most similar partner (ToMe, arXiv 2210.09461)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.tokens import Reduction, prefix_mask


def bipartite_match(
    metric: Float[Tensor, "b n d"], length: Int[Tensor, " b"], r: Int[Tensor, " b"]
) -> Reduction:
    """Merge the r even tokens that are most similar to their best odd token into it, as a plain mean.

    Even positions may move, odd positions stay and may take in several. Equal similarities: the earlier token.

    Args:
        metric: what similarity (cosine) is measured on.
        length: tokens per item.
        r: tokens to merge away per item, at most half (rounded down).

    Returns:
        `length - r` outputs in the order of the paper's code: even tokens that stayed alone, most similar first, then
        the odd ones in raster order; an odd token is its output's anchor. A next round depends on this order.
    """
    b, n = metric.shape[:2]
    evens, odds = (length + 1) // 2, length // 2
    unit = unit_rows(metric)
    likeness = cosines(unit[:, ::2], unit[:, 1::2])
    likeness.masked_fill_(~prefix_mask(odds, n // 2)[:, None, :], -torch.inf)
    if n < 2:
        return Reduction.identity(length, n)
    best, partner = likeness.max(2)
    best = best.masked_fill(~prefix_mask(evens, best.shape[1]), -torch.inf)
    # A stable sort keeps a token without any partner (an item of one) before the padding.
    order = torch.argsort(best, dim=1, descending=True, stable=True)
    column = torch.arange(best.shape[1], device=r.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, column)

    alone = (evens - r)[:, None]
    slot = torch.full((b, n), -1, device=r.device)
    slot[:, ::2] = torch.where(rank < r[:, None], alone + partner, rank - r[:, None])
    slot[:, 1::2] = alone + torch.arange(n // 2, device=r.device)
    slot.masked_fill_(~prefix_mask(length, n), -1)
    anchor = _anchors(slot, alone, length - r)
    return Reduction.merge(slot, anchor=anchor, length=length)


def merge_onto(
    target: Int[Tensor, "b n"], length: Int[Tensor, " b"], weight: Float[Tensor, "b n"] | None = None
) -> Reduction:
    """A reduction with outputs in raster order, from the token that each token is merged into.

    Args:
        target: for each token the one it is merged into, its output's anchor (itself: an anchor); -1 = dropped.
        length: tokens per item.
        weight: share of each token in its output; the plain mean by default.
    """
    anchors = target == torch.arange(target.shape[1], device=target.device)
    slot = anchors.cumsum(1) - 1
    groups = slot.gather(1, target.clamp(min=0)).masked_fill(target < 0, -1)
    anchor = Reduction.from_mask(anchors, length).anchor
    return Reduction.merge(groups, weight=weight, anchor=anchor, length=length)


def _anchors(
    slot: Int[Tensor, "b n"], alone: Int[Tensor, "b 1"], count: Int[Tensor, " b"]
) -> Int[Tensor, "b m"]:
    """The token that lends each output its position: the odd one, or the even one that stayed alone."""
    n = slot.shape[1]
    column = torch.arange(n, device=slot.device).expand_as(slot)
    keeps = (slot >= 0) & ((column % 2 == 1) | (slot < alone))
    m = int(count.max()) if len(count) else 0
    anchor = slot.new_full((len(slot), n + 1), -1)
    anchor.scatter_(1, slot.masked_fill(~keeps, n), column)
    return anchor[:, :m].masked_fill(~prefix_mask(count, m), -1)
