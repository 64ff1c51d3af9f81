"""VTC-CLS: exact examples of its specification."""

from __future__ import annotations

import pytest
import torch

from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.vtc_cls import VtcCls
from tokenry.tokens import Depth, Needs, TokenryError, TokenView


def view_of(rows: dict[int, torch.Tensor], encoder: int, **parts) -> TokenView:
    first = next(iter(rows.values()))
    depth = Depth(encoder=encoder, decoder=2)
    return TokenView.of(torch.zeros(first.shape[0], first.shape[2], 4), cls_rows=rows, depth=depth, **parts)


def random_rows(items: int, n: int, encoder: int) -> dict[int, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {block: torch.rand(items, 3, n, generator=g) for block in range(encoder)}


@pytest.mark.parametrize(("ensemble", "best"), [("sum", 2), ("min", 1), ("max", 2)])
def test_two_blocks(ensemble: str, best: int) -> None:
    # sum .6 .5 .9, min .1 .2 .2 (the earlier wins), max .5 .3 .7
    rows = {1: torch.tensor([[[0.5, 0.3, 0.2]]]), 2: torch.tensor([[[0.1, 0.2, 0.7]]])}
    method = VtcCls(budget=1, start=1, ensemble=ensemble)
    assert method.apply(view_of(rows, 4)).anchor.tolist() == [[best]]


def test_blocks_are_not_normalised() -> None:
    # Normalised per block, token 0 would win: .5 + .9 against .5 + .1.
    rows = {1: torch.tensor([[[0.40, 0.45]]]), 2: torch.tensor([[[0.02, 0.01]]])}
    assert VtcCls(budget=1, start=1).apply(view_of(rows, 4)).anchor.tolist() == [[1]]


def test_starting_at_the_last_block_read_is_fastervlm() -> None:
    view = view_of(random_rows(4, 50, 6), 6)
    assert VtcCls(budget=13, start=-2).apply(view).anchor.equal(FasterVLM(budget=13).apply(view).anchor)


def test_a_batch_equals_single_runs() -> None:
    rows = random_rows(3, 20, 6)
    together = VtcCls(budget=7).apply(view_of(rows, 6))
    for i in range(3):
        single = VtcCls(budget=7).apply(view_of({block: row[i : i + 1] for block, row in rows.items()}, 6))
        assert together.anchor[i].equal(single.anchor[0])


@pytest.mark.parametrize(
    ("start", "encoder", "blocks"),
    [
        (2 / 3, 24, range(16, 23)),
        (16, 24, range(16, 23)),
        (-8, 24, range(16, 23)),
        (22, 24, range(22, 23)),
        (0, 3, range(2)),
        (2 / 3, 4, range(2, 3)),
        (2 / 3, 2, range(1)),
    ],
)
def test_blocks_read(start: int | float, encoder: int, blocks: range) -> None:
    depth = Depth(encoder=encoder, decoder=2)
    assert VtcCls(start=start).needs(0, depth) == Needs(cls_layers=tuple(blocks))


@pytest.mark.parametrize("start", [23, 24, -1, -25])
def test_refuses_blocks_that_do_not_exist_or_come_last(start: int) -> None:
    with pytest.raises(TokenryError):
        VtcCls(start=start).blocks(Depth(encoder=24, decoder=2))


def test_refuses_an_unknown_ensemble() -> None:
    with pytest.raises(TokenryError, match="median"):
        VtcCls(ensemble="median")


def test_tiles_keep_equally_many_and_everything_is_the_identity() -> None:
    tile = torch.arange(2).repeat_interleave(10)[None]
    view = view_of(random_rows(1, 20, 6), 6, tile=tile)
    assert tile[0, VtcCls(budget=8).apply(view).anchor[0]].bincount().tolist() == [4, 4]
    assert VtcCls(budget=1.0).apply(view).is_identity
