"""Choosing tokens that differ from each other, one at a time: the greedy core of DivPrune and ToDRE."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens import prefix_mask
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)

Rule: TypeAlias = Literal["max", "sum"]

_GRID = 2.0**20
_TIE = 2.0**-20
"""Tokens whose similarities to the chosen differ by less are alike: copies at other lengths, whose float32 numbers were
rounded anew, differ by less. Rounding in float64 is smaller by far, so this does not grow with the steps."""
_MATRIX_LIMIT = 2**27
"""Largest similarity matrix, and most numbers of tokens, held at a time (1 GiB)."""
_BLOCK = 2**22
"""Numbers of it that are worked on at a time."""
_ROW_COST = 5
"""A similarity row on its own is bound by memory; it costs about this many rows of one matrix product."""


def unit_rows(x: Float[Tensor, "b n d"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b n d"]:
    """Tokens of length 1; a zero vector stays zero (cosine 0 with everything)."""
    return F.normalize(x.to(dtype), dim=2, eps=1e-12)


def cosines(a: Float[Tensor, "b m d"], b: Float[Tensor, "b n d"]) -> Float[Tensor, "b m n"]:
    """Products of unit vectors, rounded to a grid of 2^-20.

    How a matrix product rounds depends on its shape. The grid keeps that from deciding between tokens that are alike,
    where what else is in the batch would otherwise show.
    """
    return (a @ b.mT).mul_(_GRID).round_().div_(_GRID)


def greedy_diverse(
    x: Float[Tensor, "b n d"],
    length: Int[Tensor, " b"],
    keep: Int[Tensor, " b"],
    *,
    rule: Rule,
    first: Int[Tensor, " b"] | None = None,
) -> Int[Tensor, "b k"]:
    """Choose tokens one by one, each the least similar (cosine) to those chosen before.

    Args:
        x: tokens, padded.
        length: tokens per item.
        keep: tokens to choose per item.
        rule: what "similar to the chosen" means: similar to the nearest of them ("max": max-min diversity,
            k-center), or in sum ("sum").
        first: where to start; by default at the token farthest from its nearest neighbour.

    Returns:
        The chosen indices in the order they were chosen, -1 after each item's last. Equal similarity (to 2^-20): the
        earlier token. Similarities and their sums are float64: one choice differs, and all after it do. O(k N D) given
        `first`; finding it looks at all pairs, O(N^2 D).
    """
    n, width = x.shape[1:]
    chunk = max(1, _MATRIX_LIMIT // max(1, n * max(n, width)))
    if len(x) > chunk:  # one item after another rather than all matrices at once
        parts = zip(*(t.split(chunk) for t in (x, length, keep)), strict=True)
        firsts = [None] * len(x) if first is None else first.split(chunk)
        done = [greedy_diverse(*part, rule=rule, first=f) for part, f in zip(parts, firsts, strict=False)]
        most = max(p.shape[1] for p in done)
        return torch.cat([F.pad(p, (0, most - p.shape[1]), value=-1) for p in done])

    steps = int(keep.max()) if len(keep) else 0
    if steps == 0:
        return torch.full((len(x), 0), -1, dtype=torch.long, device=x.device)
    valid = prefix_mask(length, n)
    unit = unit_rows(x, torch.float64)
    items = torch.arange(len(x), device=x.device)
    matrix = None
    if n * n <= _MATRIX_LIMIT and (first is None or n <= _ROW_COST * steps):
        matrix = unit @ unit.mT
    if first is None:
        first = _most_isolated(unit, valid, matrix)

    picks = torch.full((len(x), steps), -1, dtype=torch.long, device=x.device)
    # What was chosen, and padding, is never the least similar.
    similarity = torch.full_like(valid, 0 if rule == "sum" else -2, dtype=torch.float64)
    similarity = similarity.masked_fill(~valid, torch.inf)
    pick = first
    for step in range(steps):
        picks[:, step] = pick
        row = matrix[items, pick] if matrix is not None else (unit[items, pick][:, None] @ unit.mT)[:, 0]
        similarity = similarity + row if rule == "sum" else similarity.maximum(row)
        similarity.scatter_(1, pick[:, None], torch.inf)
        pick = _first_least(similarity)
    return picks.masked_fill(~prefix_mask(keep, steps), -1)


def index_mask(picks: Int[Tensor, "b k"], n: int) -> Bool[Tensor, "b n"]:
    """The chosen tokens as a mask."""
    mask = torch.zeros(len(picks), n + 1, dtype=torch.bool, device=picks.device)
    return mask.scatter_(1, picks.masked_fill(picks < 0, n), True)[:, :n]


def _most_isolated(
    unit: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"], matrix: Float[Tensor, "b n n"] | None
) -> Int[Tensor, " b"]:
    """The token whose nearest neighbour is farthest."""
    n = unit.shape[1]
    column = torch.arange(n, device=unit.device)
    step = max(1, _BLOCK // max(1, len(unit) * n))
    nearest = []
    for start in range(0, n, step):
        rows = slice(start, start + step)
        block = unit[:, rows] @ unit.mT if matrix is None else matrix[:, rows]
        itself = column == column[rows, None]
        nearest.append(block.masked_fill(itself | ~valid[:, None, :], -torch.inf).amax(2))
    isolation = torch.cat(nearest, 1).masked_fill(~valid, torch.inf)
    return _first_least(isolation)


def _first_least(values: Float[Tensor, "b n"]) -> Int[Tensor, " b"]:
    """The first of the least values."""
    return (values <= values.amin(1, keepdim=True) + _TIE).int().argmax(1)
