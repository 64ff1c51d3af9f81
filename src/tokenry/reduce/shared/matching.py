"""Bipartite soft matching: merge each of r tokens into its most similar partner (ToMe, arXiv 2210.09461)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.tokens import Reduction, ReductionError, prefix_mask


class Match(NamedTuple):
    """What bipartite matching found.

    Attributes:
        reduction: the merges.
        similarity: of each source to its most similar destination, -inf for destinations, padding, and sources that
            had none.
    """

    reduction: Reduction
    similarity: Float[Tensor, "b n"]


def bipartite_match(
    metric: Float[Tensor, "b n d"],
    length: Int[Tensor, " b"],
    r: Int[Tensor, " b"],
    *,
    every: int = 2,
    protected: Bool[Tensor, "b n"] | None = None,
    threshold: float | None = None,
) -> Match:
    """Merge the r sources that are most similar to their best destination into it, as a plain mean.

    Every k-th token (by default the odd ones) is a destination: it stays, and may take in several. The others are
    sources. Equal similarities: the earlier token.

    Args:
        metric: what similarity (cosine) is measured on.
        length: tokens per item.
        r: sources to merge away per item, at most as many as may be merged; fewer where the threshold stops.
        every: distance of destinations; the last token of each run of so many is one.
        protected: tokens that are neither merged nor take others in.
        threshold: least similarity at which two tokens are merged.

    Returns:
        `length - r` outputs (more where the threshold stopped) in the order of the paper's code: sources that stayed
        alone, most similar first, then the destinations in raster order; a destination is its output's anchor. A next
        round depends on this order.

    Raises:
        ReductionError: more tokens are to be merged than may be.
    """
    b, n = metric.shape[:2]
    column = torch.arange(n, device=metric.device)
    to = column % every == every - 1
    similarity = metric.new_full((b, n), -torch.inf, dtype=torch.float32)
    valid = prefix_mask(length, n)
    free = valid if protected is None else valid & ~protected
    if int(to.sum()) == 0:
        _require(r, torch.zeros_like(r))
        return Match(Reduction.identity(length, n), similarity)
    sources, destinations = column[~to], column[to]
    unit = unit_rows(metric)
    pairs = cosines(unit[:, sources], unit[:, destinations])
    pairs.masked_fill_(~free[:, None, destinations], -torch.inf)
    found, partner = pairs.max(2)
    found = found.masked_fill(~free[:, sources], -torch.inf)
    similarity[:, sources] = found
    able = found > -torch.inf
    _require(r, able.sum(1))
    if threshold is not None:
        r = r.minimum((found >= threshold).sum(1))

    # A stable sort; sources that cannot be merged come before the padding.
    order = torch.argsort(found, dim=1, descending=True, stable=True)
    order = order.gather(1, torch.argsort(~valid[:, sources].gather(1, order), dim=1, stable=True))
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(len(sources), device=r.device).expand_as(order)
    )
    alone = (valid[:, sources].sum(1) - r)[:, None]
    slot = torch.full((b, n), -1, device=r.device)
    slot[:, sources] = torch.where(rank < r[:, None], alone + partner, rank - r[:, None])
    slot[:, destinations] = alone + torch.arange(len(destinations), device=r.device)
    slot.masked_fill_(~valid, -1)
    anchor = _anchors(slot, to, alone, length - r)
    return Match(Reduction.merge(slot, anchor=anchor, length=length), similarity)


def _require(r: Int[Tensor, " b"], most: Int[Tensor, " b"]) -> None:
    if bool((r > most).any() | (r < 0).any()):
        raise ReductionError(f"Cannot merge {r.tolist()} tokens away: {most.tolist()} have a token to go to.")


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
    slot: Int[Tensor, "b n"], to: Bool[Tensor, " n"], alone: Int[Tensor, "b 1"], count: Int[Tensor, " b"]
) -> Int[Tensor, "b m"]:
    """The token that lends each output its position: the destination, or the source that stayed alone."""
    n = slot.shape[1]
    column = torch.arange(n, device=slot.device).expand_as(slot)
    keeps = (slot >= 0) & (to | (slot < alone))
    m = int(count.max()) if len(count) else 0
    anchor = slot.new_full((len(slot), n + 1), -1)
    anchor.scatter_(1, slot.masked_fill(~keeps, n), column)
    return anchor[:, :m].masked_fill(~prefix_mask(count, m), -1)
