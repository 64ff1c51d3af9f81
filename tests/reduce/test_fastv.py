"""FastV: exact examples of its specification."""

from __future__ import annotations

import pytest
import torch

from tests.reduce.explicit import AFTER, BEFORE, PADDING, VISUAL, last_row, sequence_view
from tokenry.reduce.fastv import FastV
from tokenry.tokens import Depth, Needs, Positions, Stage, TokenryError

COLUMNS = [BEFORE, VISUAL, VISUAL, VISUAL, VISUAL, AFTER]


def kept(method: FastV, view) -> list[list[int]]:
    return [row[row >= 0].tolist() for row in method.apply(view).anchor]


def test_keeps_what_the_last_token_looks_at() -> None:
    # [.1 .4 .2 .3] of the visual span, R = 0.5 -> [1, 3]
    view = sequence_view([COLUMNS], last_row([0.05, 0.09, 0.36, 0.18, 0.27, 0.05]), layer=2, depth=4)
    assert kept(FastV(budget=0.5), view) == [[1, 3]]


def test_budget_is_the_share_kept_not_removed() -> None:
    view = sequence_view([COLUMNS], last_row([0.05, 0.09, 0.36, 0.18, 0.27, 0.05]), layer=2, depth=4)
    assert kept(FastV(budget=0.75), view) == [[1, 2, 3]]
    assert kept(FastV(budget=0.25), view) == [[1]]
    assert FastV(budget=1.0).apply(view).is_identity


def test_heads_are_averaged_as_probabilities() -> None:
    logits = torch.cat(
        [last_row([0.1, 0.5, 0.2, 0.1, 0.05, 0.05]), last_row([0.1, 0.1, 0.1, 0.5, 0.1, 0.1])], 1
    )
    view = sequence_view([COLUMNS], logits, layer=2, depth=4)
    assert torch.allclose(FastV().score(view)[0], torch.tensor([0.30, 0.15, 0.30, 0.075]), atol=1e-6)
    assert kept(FastV(), view) == [[0, 2]]


def test_left_padding_and_row_mates_do_not_matter() -> None:
    torch.manual_seed(0)
    short = torch.randn(1, 3, 6, 6)
    padded = torch.zeros(2, 3, 9, 9)
    padded[0, :, 3:, 3:] = short[0]
    padded[1] = torch.randn(3, 9, 9)
    mate = [BEFORE, VISUAL, VISUAL, VISUAL, VISUAL, VISUAL, VISUAL, AFTER, AFTER]
    alone = sequence_view([COLUMNS], short, layer=2, depth=4)
    together = sequence_view([[PADDING] * 3 + COLUMNS, mate], padded, layer=2, depth=4)
    assert kept(FastV(), alone)[0] == kept(FastV(), together)[0]


def test_acts_before_layer_k_on_the_layer_before() -> None:
    depth = Depth(encoder=24, decoder=32)
    assert FastV().cuts(depth) == (2,)
    assert FastV(layer=0.25).cuts(depth) == (8,)
    assert FastV().needs(2, depth) == Needs(attention="previous")
    assert FastV(positions="paper").position_rule is Positions.KEEP
    assert FastV.stage is Stage.LAYER


@pytest.mark.parametrize("layer", [0, 32, 40])
def test_refuses_a_layer_without_a_predecessor_or_beyond_the_model(layer: int) -> None:
    with pytest.raises(TokenryError, match=str(layer)):
        FastV(layer=layer).cuts(Depth(encoder=0, decoder=32))
