"""Tiles of a picture (thumbnail and crops) and frames of a video: how scores compare across them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def balance_tiles(scores: Float[Tensor, "items n"], tile: Int[Tensor, "items n"]) -> Float[Tensor, "items n"]:
    """Turn scores into ranks within each tile, so that a top-k takes equally many from every tile.

    The best token of each tile scores 0, the second -1, ...; tokens of no tile (-1) score -inf. One tile: the order
    of the scores is unchanged.
    """
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    order = order.gather(1, torch.argsort(tile.gather(1, order), dim=1, stable=True))
    ordered = tile.gather(1, order)
    column = torch.arange(tile.shape[1], device=tile.device).expand_as(tile)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = column - torch.where(starts, column, 0).cummax(1).values
    ranks = torch.empty_like(scores).scatter_(1, order, -rank.to(scores.dtype))
    return ranks.masked_fill(tile < 0, float("-inf"))
