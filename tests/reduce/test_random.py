"""The random baseline: seeded by the picture, not by its place in a batch."""

from __future__ import annotations

import torch

from tokenry.reduce.random import RandomTokens
from tokenry.tokens import TokenView


def view_of(keys: list[int], length: list[int], n: int | None = None) -> TokenView:
    features = torch.zeros(len(keys), n or max(length), 2)
    return TokenView.of(features, length=torch.tensor(length), key=torch.tensor(keys))


def test_a_picture_keeps_the_same_tokens_in_any_batch() -> None:
    alone = RandomTokens(budget=0.25).apply(view_of([7], [60]))
    batch = RandomTokens(budget=0.25).apply(view_of([3, 7, 9], [80, 60, 10], n=99))
    assert batch.item(1).anchor.equal(alone.anchor)
    assert batch.count.tolist() == [20, 15, 3]


def test_pictures_and_seeds_differ() -> None:
    view = view_of([1, 2, -(2**63)], [100, 100, 100])
    a, b, c = RandomTokens(budget=50).apply(view).anchor
    assert not a.equal(b)
    assert not b.equal(c)
    assert not a.equal(RandomTokens(budget=50, seed=1).apply(view).anchor[0])


def test_every_token_is_kept_equally_often() -> None:
    keys = list(range(2000))
    kept = RandomTokens(budget=0.25).apply(view_of(keys, [16] * 2000)).kept.float().mean(0)
    assert (kept - 0.25).abs().max() < 0.05  # 5 standard errors
    assert RandomTokens(budget=1.0).apply(view_of([1, 2], [5, 3])).is_identity


def test_no_pictures() -> None:
    assert RandomTokens().apply(TokenView.of(torch.zeros(0, 4, 2))).count.tolist() == []
