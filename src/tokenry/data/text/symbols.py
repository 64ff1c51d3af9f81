"""Riddles of symbols: what a model can infer from a sequence alone (the synthetic tasks of arXiv 2305.16349).

The symbols of a riddle are drawn from the vocabulary at random, so nothing that was learnt about them helps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.tokens.errors import InputError

__all__ = ["Riddles", "lookup_riddles", "permutation_riddles"]


@dataclass(frozen=True)
class Riddles:
    """Riddles of one kind.

    Attributes:
        ids: the symbols shown; a model predicts what follows.
        answers: what does follow.
    """

    ids: Int[Tensor, "riddles length"]
    answers: Int[Tensor, "riddles answer"]


def lookup_riddles(
    symbols: Int[Tensor, " v"], pairs: int, count: int, *, repeats: int = 1, seed: int = 0
) -> Riddles:
    """LookUp: pairs a b are shown, then one of the a: its b follows.

    Args:
        symbols: the ids to draw from.
        pairs: of different symbols, per riddle.
        count: riddles.
        repeats: how often all pairs are shown, each time in another order.
        seed: which riddles.

    Raises:
        InputError: if there are fewer than ``2 * pairs`` symbols, or nothing to show.
    """
    if not 1 <= pairs <= len(symbols) // 2 or repeats < 1 or count < 1:
        raise InputError(
            f"{pairs} pairs take {2 * pairs} different symbols and must be shown at least once; there are "
            f"{len(symbols)} symbols, {repeats} repeats, {count} riddles."
        )
    generator = torch.Generator().manual_seed(seed)
    table = symbols[_orders(count, len(symbols), generator)[:, : 2 * pairs]].view(count, pairs, 2)
    shown = torch.cat(
        [table[torch.arange(count)[:, None], _orders(count, pairs, generator)] for _ in range(repeats)], 1
    )
    asked = table[torch.arange(count), torch.randint(pairs, (count,), generator=generator)]
    return Riddles(torch.cat([shown.flatten(1), asked[:, :1]], 1), asked[:, 1:])


def permutation_riddles(
    symbols: Int[Tensor, " v"], size: int, examples: int, count: int, *, seed: int = 0
) -> Riddles:
    """Permutation: tuples are shown, each followed by itself in one other order, the same one within a riddle.

    Args:
        symbols: the ids to draw from.
        size: symbols of a tuple, all different.
        examples: tuples shown with their permutation, before the one whose permutation is asked.
        count: riddles.
        seed: which riddles.

    Raises:
        InputError: if a tuple would need more symbols than there are, or less than two.
    """
    if not 2 <= size <= len(symbols) or examples < 1 or count < 1:
        raise InputError(
            f"A permutation of {size} symbols needs at least two and at most the {len(symbols)} there are, and at "
            f"least one example; got {examples} examples, {count} riddles."
        )
    generator = torch.Generator().manual_seed(seed)
    order = _orders(count, size, generator)[:, None].expand(-1, examples + 1, -1)
    drawn = _orders(count * (examples + 1), len(symbols), generator)[:, :size].view(count, examples + 1, size)
    tuples = symbols[drawn]
    lines = torch.cat([tuples, tuples.gather(2, order)], 2).flatten(1)
    return Riddles(lines[:, :-size], lines[:, -size:])


def _orders(rows: int, n: int, generator: torch.Generator) -> Int[Tensor, "rows n"]:
    """A random order of n things for each row."""
    return torch.rand(rows, n, generator=generator).argsort(1)
