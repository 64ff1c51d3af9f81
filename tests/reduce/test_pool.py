"""The pooling baseline: rectangles, their means and their middles."""

from __future__ import annotations

import itertools

import pytest
import torch

from tokenry.reduce.pool import Pool, coarser_grid
from tokenry.tokens import TokenView


def view_of(t: int, h: int, w: int, d: int = 3) -> TokenView:
    x = torch.randn(1, t * h * w, d, generator=torch.Generator().manual_seed(0))
    return TokenView.of(x, grid=torch.tensor([[t, h, w]]))


def test_a_mean_per_rectangle() -> None:
    view = view_of(1, 4, 6)
    reduction = Pool(budget=6).apply(view)
    expected = view.features.view(1, 2, 2, 3, 2, 3).mean((2, 4)).flatten(1, 2)  # 2 x 3 rectangles of 2 x 2
    assert torch.allclose(reduction.apply(view.features), expected, atol=1e-6)
    assert reduction.sizes.tolist() == [[4] * 6]
    assert reduction.anchor.tolist() == [[0, 2, 4, 12, 14, 16]]


def test_the_anchor_is_the_middle() -> None:
    assert Pool(budget=1).apply(view_of(1, 3, 5)).anchor.tolist() == [[7]]
    assert Pool(budget=2).apply(view_of(2, 3, 3)).anchor.tolist() == [[4, 13]]


def test_frames_are_pooled_alike() -> None:
    view = view_of(3, 4, 4)
    reduction = Pool(budget=12).apply(view)
    expected = view.features.view(1, 3, 2, 2, 2, 2, 3).mean((3, 5)).flatten(1, 3)
    assert torch.allclose(reduction.apply(view.features), expected, atol=1e-6)


@pytest.mark.parametrize(("k", "expected"), [(1, 1), (2, 2), (3, 3), (5, 4), (8, 8)])
def test_a_budget_below_the_number_of_frames_is_still_a_bound(k: int, expected: int) -> None:
    assert int(Pool(budget=k).apply(view_of(4, 2, 2)).count) <= k
    assert int(Pool(budget=k).apply(view_of(4, 2, 2)).count) == expected


def test_without_a_grid_runs_are_pooled() -> None:
    x = torch.arange(7.0)[None, :, None]
    reduction = Pool(budget=3).apply(
        TokenView.of(x, grid=torch.tensor([[1, 2, 3]]))
    )  # 7 tokens are no 2 x 3 grid
    assert reduction.sizes.sum() == 7
    assert int(reduction.count) == 3
    assert reduction.group[0].diff().ge(0).all()


def test_ragged_items_and_the_identity() -> None:
    x = torch.randn(2, 12, 2, generator=torch.Generator().manual_seed(0))
    grid, length = torch.tensor([[1, 3, 4], [1, 2, 2]]), torch.tensor([12, 4])
    view = TokenView.of(x, grid=grid, length=length)
    alone = Pool(budget=0.5).apply(TokenView.of(x[1:, :4], grid=grid[1:]))
    assert Pool(budget=0.5).apply(view).item(1).anchor.equal(alone.anchor)
    assert Pool(budget=1.0).apply(view).is_identity


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (5, 3), (24, 24)])
def test_coarser_grid_is_the_best_of_all(h: int, w: int) -> None:
    for k in range(1, h * w + 1):
        rows, cols = coarser_grid(h, w, k)
        most = max(r * c for r, c in itertools.product(range(1, h + 1), range(1, w + 1)) if r * c <= k)
        assert (rows <= h, cols <= w, rows * cols) == (True, True, most)
    assert coarser_grid(24, 24, 64) == (8, 8)
