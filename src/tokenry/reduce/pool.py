"""The baseline that looks at nothing but the grid: average pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.reduce.base import Reducer
from tokenry.tokens import BudgetLike, Reduction, TokenView


@dataclass(frozen=True, kw_only=True)
class Pool(Reducer):
    """Average-pool the token grid to the largest coarser grid that fits the budget: baseline.

    Each output is the mean of a rectangle of tokens and takes the position of the token nearest the rectangle's
    middle. A picture of h x w tokens and a budget of k becomes h' x w' <= k rectangles, as square as possible; frames
    of a video are pooled alike. Tokens without a complete grid (newlines between rows, tokens already dropped) are
    pooled in k runs along the sequence; so is a video that keeps less than one token per frame.

    Attributes:
        budget: tokens kept per picture; an upper bound, since a grid rarely has exactly that many cells.
    """

    slug: ClassVar[str] = "pool"
    budget_is_bound: ClassVar[bool] = True

    budget: BudgetLike = 0.25

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Group tokens by the cell they fall into."""
        groups = torch.full_like(view.source, -1)
        anchors = torch.full_like(view.source, -1)
        sizes = zip(view.grid.tolist(), view.length.tolist(), keep.tolist(), strict=True)
        for i, (grid, n, k) in enumerate(sizes):  # a handful of pictures, not tokens
            if n == 0:
                continue
            t, h, w = grid if math.prod(grid) == n and grid[0] <= k else (1, 1, n)
            rows, cols = coarser_grid(h, w, max(1, k // t))
            cell, anchor = _cells(t, h, w, rows, cols)
            groups[i, :n], anchors[i, : len(anchor)] = cell.to(groups), anchor.to(anchors)
        width = int(groups.max()) + 1 if groups.numel() else 0
        return Reduction.merge(groups, anchor=anchors[:, :width], length=view.length)


def coarser_grid(h: int, w: int, k: int) -> tuple[int, int]:
    """The grid of at most k cells, at most h x w, with the most cells; the squarest cells break ties."""
    best = max(
        ((rows, min(w, k // rows)) for rows in range(1, min(h, k) + 1)),
        key=lambda g: (g[0] * g[1], -abs(math.log((h / g[0]) / (w / g[1])))),
    )
    return best


def _cells(t: int, h: int, w: int, rows: int, cols: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " m"]]:
    """Cell of every token of a t x h x w grid, and the token nearest the middle of every cell (raster orders)."""
    y, x = torch.arange(h) * rows // h, torch.arange(w) * cols // w
    frame = torch.arange(t)[:, None, None]
    cell = (frame * rows + y[:, None]) * cols + x
    mid_y = torch.stack([(y == r).nonzero().float().mean().floor() for r in range(rows)])
    mid_x = torch.stack([(x == c).nonzero().float().mean().floor() for c in range(cols)])
    anchor = (frame * h + mid_y[:, None]) * w + mid_x
    return cell.flatten(), anchor.flatten().long()
