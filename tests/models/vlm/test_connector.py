"""Connectors: exact examples, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from tests.tokens.conftest import unchecked
from tokenry.models import IdentityConnector, PoolConnector, VisualTokens
from tokenry.tokens import InputError, TokenView

__all__ = ["unchecked"]


def grid_of(t: int, h: int, w: int) -> TokenView:
    x = torch.arange(1.0, t * h * w + 1)[None, :, None]
    return TokenView.of(x, grid=torch.tensor([[t, h, w]]))


def test_a_grid_of_1_to_16_pooled_to_4_and_to_1() -> None:
    connector = PoolConnector()
    assert connector(grid_of(1, 4, 4)).values.flatten().tolist() == [3.5, 5.5, 11.5, 13.5]
    assert connector(grid_of(1, 4, 4), torch.tensor([1])).values.flatten().tolist() == [8.5]
    assert connector(grid_of(2, 2, 4)).values.flatten().tolist() == [3.5, 5.5, 11.5, 13.5]


def test_pooling_in_two_steps_is_pooling_in_one() -> None:
    x = torch.randn(1, 24 * 24, 5, generator=torch.Generator().manual_seed(0))
    view = TokenView.of(x, grid=torch.tensor([[1, 24, 24]]))
    made = {n: PoolConnector()(view, torch.tensor([n])).values for n in (9, 36)}
    again = PoolConnector()(TokenView.of(made[36], grid=torch.tensor([[1, 6, 6]])), torch.tensor([9])).values
    torch.testing.assert_close(again, made[9])


def test_numbers_that_no_square_gives_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        InputError, match=r"cannot be pooled to 100 tokens; possible numbers: 576, 144, 64, 36, 16, 9, 4, 1"
    ):
        PoolConnector()(grid_of(1, 24, 24), torch.tensor([100]))
    with pytest.raises(InputError, match="cannot be pooled to squares of 2 x 2; possible numbers: 9, 1"):
        PoolConnector()(grid_of(1, 3, 3))
    with pytest.raises(InputError, match="possible numbers: none, since they fill no grid"):
        PoolConnector(1)(TokenView.of(torch.zeros(1, 5, 2), grid=torch.tensor([[1, 2, 2]])))
    with pytest.raises(InputError, match="side of 1 token or more"):
        PoolConnector(0)


def test_the_identity_hands_on_what_it_is_shown() -> None:
    view = grid_of(1, 2, 3)
    made = IdentityConnector()(view)
    assert made.values.equal(view.features)
    assert made.anchor.tolist() == [[0, 1, 2, 3, 4, 5]]
    with pytest.raises(InputError, match=r"gives all of \[6\] tokens, and was asked for \[5\]"):
        IdentityConnector()(view, torch.tensor([5]))


@pytest.mark.usefixtures("unchecked")
def test_tokens_without_places_are_refused() -> None:
    values, length = torch.zeros(1, 2, 3), torch.tensor([2])
    with pytest.raises(InputError, match="an anchor for each token"):
        VisualTokens(values, length, torch.tensor([[0]]))
    with pytest.raises(InputError, match="Anchors are 0 or more on an item's tokens"):
        VisualTokens(values, length, torch.tensor([[0, -1]]))
