"""FasterVLM: exact examples of its specification, and the equal shares of tiles."""

from __future__ import annotations

import pytest
import torch

from tokenry.reduce.fastervlm import FasterVLM, balance_tiles
from tokenry.tokens import Depth, Needs, TokenryError, TokenView, UnsupportedError

DEPTH = Depth(encoder=4, decoder=2)


def view_of(rows: torch.Tensor, **parts) -> TokenView:
    """A view whose block 2 (of 4) has the given [CLS] rows [items heads n]."""
    return TokenView.of(
        torch.zeros(rows.shape[0], rows.shape[2], 4), cls_rows={2: rows}, depth=DEPTH, **parts
    )


def test_keeps_the_highest_in_raster_order() -> None:
    view = view_of(torch.tensor([[[0.1, 0.4, 0.2, 0.3]]]))
    assert FasterVLM(budget=2).apply(view).anchor.tolist() == [[1, 3]]


def test_equals_brute_force_over_heads() -> None:
    rows = torch.rand(3, 5, 40, generator=torch.Generator().manual_seed(0))
    anchor = FasterVLM(budget=10).apply(view_of(rows)).anchor
    for i in range(3):
        mean = [sum(rows[i, h, j].item() for h in range(5)) / 5 for j in range(40)]
        assert anchor[i].tolist() == sorted(sorted(range(40), key=lambda j: -mean[j])[:10])


def test_every_tile_keeps_as_many() -> None:
    # A thumbnail and 2 x 2 crops of 9 tokens: k (1 + 4) tokens.
    g = torch.Generator().manual_seed(1)
    tile = torch.arange(5).repeat_interleave(9)[None]
    rows = torch.rand(1, 2, 45, generator=g) * torch.tensor([10.0, 1, 0.1, 5, 0.01])[tile][:, None]
    reduction = FasterVLM(budget=15).apply(view_of(rows, tile=tile))
    assert tile[0, reduction.anchor[0]].bincount().tolist() == [3, 3, 3, 3, 3]
    for t in range(5):
        own = [j for j in reduction.anchor[0].tolist() if tile[0, j] == t]
        assert own == sorted(sorted(range(9 * t, 9 * t + 9), key=lambda j: -rows[0].mean(0)[j])[:3])


def test_tokens_of_no_tile_go_first() -> None:
    tile = torch.tensor([[0, 0, -1, 0, 0, -1]])
    rows = torch.tensor([[[0.1, 0.2, 0.0, 0.3, 0.4, 0.0]]])
    assert FasterVLM(budget=4).apply(view_of(rows, tile=tile)).anchor.tolist() == [[0, 1, 3, 4]]
    assert FasterVLM(budget=5).apply(view_of(rows, tile=tile)).anchor.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("interleaved", [False, True])
def test_balance_tiles_ranks_within_a_tile(interleaved: bool) -> None:
    g = torch.Generator().manual_seed(2)
    tile = torch.arange(3).repeat(4) if interleaved else torch.arange(3).repeat_interleave(4)
    tile = torch.cat([tile, torch.tensor([-1, -1])])
    scores = torch.rand(14, generator=g)
    ranks = balance_tiles(scores[None], tile[None])[0]
    for j in range(12):
        better = sum(1 for i in range(12) if tile[i] == tile[j] and scores[i] > scores[j])
        assert ranks[j] == -better
    assert ranks[12:].tolist() == [-torch.inf, -torch.inf]


def test_one_tile_keeps_the_order_of_the_scores() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.3, 0.9, 0.2]])
    assert balance_tiles(scores, torch.zeros(1, 5, dtype=torch.long)).tolist() == [[-1, -4, -2, 0, -3]]


def test_items_of_different_length() -> None:
    rows = torch.tensor([[[0.1, 0.4, 0.2, 0.3]], [[0.2, 0.1, 0.0, 0.0]]])
    view = view_of(rows, length=torch.tensor([4, 2]))
    reduction = FasterVLM(budget=0.5).apply(view)
    assert reduction.anchor.tolist() == [[1, 3], [0, -1]]
    assert FasterVLM(budget=1.0).apply(view).is_identity


def test_reads_the_block_that_delivers_the_features() -> None:
    assert FasterVLM().needs(0, Depth(encoder=24, decoder=32)) == Needs(cls_layers=(22,))
    with pytest.raises(TokenryError, match="Layer -2 does not exist"):
        FasterVLM().needs(0, Depth(encoder=1, decoder=32))


def test_says_so_when_there_is_no_cls_row() -> None:
    with pytest.raises(UnsupportedError, match="CLS"):
        FasterVLM(budget=2).apply(TokenView.of(torch.zeros(1, 4, 2), depth=DEPTH))
