"""Views: what `TokenView.of` fills in, and what a method may read."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from tests.laws.reducers.attention import QKAttention
from tokenry.tokens import Depth, ReductionError, TokenView, UnsupportedError


def test_of_fills_in_a_batch_that_belongs_to_no_model() -> None:
    view = TokenView.of(torch.ones(2, 4, 3), length=torch.tensor([4, 2]))
    assert view.valid.tolist() == [[True] * 4, [True, True, False, False]]
    assert view.source.tolist() == view.slot.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1]]
    assert view.tile.tolist() == [[0] * 4, [0, 0, -1, -1]]
    assert view.grid.tolist() == [[1, 1, 4], [1, 1, 2]]
    assert view.entry.tolist() == [4, 2]
    assert view.row.tolist() == [0, 1]
    assert view.columns.tolist() == [[1, 1, 1, 1], [1, 1, -1, -1]]
    assert view.layer == 0
    assert view.depth == Depth(encoder=0, decoder=1)


def test_of_takes_every_part() -> None:
    grid = torch.tensor([[1, 2, 2]])
    view = TokenView.of(torch.ones(1, 4, 3), grid=grid, layer=3, key=torch.tensor([9]))
    assert view.grid.equal(grid)
    assert view.layer == 3
    assert view.key.tolist() == [9]
    assert view.length.tolist() == [4]
    with pytest.raises(TypeError, match="colour"):
        TokenView.of(torch.ones(1, 4, 3), colour="red")


def test_a_view_is_read_only() -> None:
    with pytest.raises(FrozenInstanceError):
        TokenView.of(torch.ones(1, 4, 3)).layer = 2  # type: ignore[misc]


def test_a_batch_without_an_item() -> None:
    view = TokenView.of(torch.ones(0, 4, 3))
    assert view.valid.shape == (0, 4)
    view.check()


def test_what_was_not_asked_for_is_not_there() -> None:
    view = TokenView.of(torch.ones(1, 4, 3))
    with pytest.raises(UnsupportedError, match=r"Needs\.attention"):
        _ = view.attention
    with pytest.raises(UnsupportedError, match=r"Needs\.cls_layers"):
        view.cls_attention(0)


def test_what_was_asked_for_is() -> None:
    columns = torch.tensor([[0, 1, 1, 1, 1, 2]])
    attention = QKAttention(torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2), columns)
    rows = torch.rand(1, 2, 4)
    view = TokenView.of(torch.ones(1, 4, 3), columns=columns, attention=attention, cls_rows={5: rows})
    assert view.attention.row().equal(attention.row())
    group = columns == 1
    assert view.attention.mass(group).equal(attention.mass(group))
    p = torch.rand(1, 1, 6)
    assert view.attention.propagate(p, 0.5).equal(attention.propagate(p, 0.5))
    assert view.cls_attention(5).equal(rows)


def test_columns_are_cut_out_for_each_item() -> None:
    """Two items of one row, one of another; padding gets 0."""
    view = TokenView.of(
        torch.ones(3, 2, 1),
        length=torch.tensor([2, 1, 2]),
        row=torch.tensor([1, 1, 0]),
        slot=torch.tensor([[1, 2], [4, -1], [0, 3]]),
        columns=torch.ones(2, 5, dtype=torch.long),
    )
    values = torch.tensor([[0.0, 1, 2, 3, 4], [10, 11, 12, 13, 14]])
    assert view.of_columns(values).tolist() == [[11, 12], [14, 0], [0, 3]]
    assert view.of_columns(torch.full((2, 5), -torch.inf))[0].tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_refused(wrong: float) -> None:
    features = torch.ones(3, 4, 3, dtype=torch.float16)
    features[1, 2, 0] = wrong
    with pytest.raises(ReductionError, match=r"features of items \[1\] are NaN or infinite"):
        TokenView.of(features).check()
    TokenView.of(features, length=torch.tensor([4, 2, 4])).check()  # padding is not looked at


def test_large_half_precision_features_are_fine() -> None:
    """Their sum is beyond half precision."""
    TokenView.of(torch.full((1, 2, 4096), 6e4, dtype=torch.float16)).check()


def test_attention_that_is_not_a_number_is_refused() -> None:
    rows = torch.rand(2, 2, 4)
    rows[0, 1, 3] = torch.nan
    view = TokenView.of(torch.ones(2, 4, 3), cls_rows={0: rows})
    with pytest.raises(ReductionError, match=r"block 0 of items \[0\]"):
        view.cls_attention(0)
    assert replace(view, length=torch.tensor([3, 4])).cls_attention(0) is rows
    values = torch.zeros(2, 4)
    values[1, 0] = torch.nan
    with pytest.raises(ReductionError, match=r"items \[1\]"):
        view.of_columns(values)


@pytest.mark.parametrize("read", ["row", "mass", "propagate"])
def test_decoder_attention_that_is_not_a_number_is_refused_whatever_is_read(read: str) -> None:
    """Two sequences, the first with padding, whose numbers do not matter."""
    columns = torch.tensor([[-1, -1, 0, 1, 1, 2], [0, 1, 1, 1, 1, 2]])

    def values(view: TokenView) -> torch.Tensor:
        given = {
            "row": (),
            "mass": (columns == 1,),
            "propagate": (torch.rand(2, 1, 6).masked_fill(columns[:, None] < 0, 0),),
        }
        return getattr(view.attention, read)(*given[read])

    def view(keys: torch.Tensor) -> TokenView:
        attention = QKAttention(torch.rand(2, 1, 6, 2), keys, columns)
        return TokenView.of(torch.ones(2, 4, 3), columns=columns, attention=attention)

    keys = torch.rand(2, 1, 6, 2)
    keys[0, :, :2] = torch.nan
    assert values(view(keys)).isfinite().all()
    keys[1, :, 2] = torch.nan
    with pytest.raises(ReductionError, match=r"attention weights of sequences \[1\]"):
        values(view(keys))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_text_that_is_not_a_number_is_refused(wrong: float) -> None:
    text = torch.rand(2, 5, 3)
    text[1, 3, 0] = wrong
    view = TokenView.of(torch.ones(2, 4, 3), text=text, text_length=torch.tensor([5, 4]))
    with pytest.raises(ReductionError, match=r"text embeddings of items \[1\]"):
        view.check()
    replace(view, text_length=torch.tensor([5, 3])).check()  # padding is not looked at
