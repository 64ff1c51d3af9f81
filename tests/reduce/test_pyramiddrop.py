"""PyramidDrop: the pyramid of counts, and its scores."""

from __future__ import annotations

import pytest
import torch

from tests.reduce.explicit import AFTER, BEFORE, VISUAL, last_row, sequence_view
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.tokens import Budget, Depth, Needs, Positions, TokenryError, TokenView

DEPTH = Depth(encoder=24, decoder=32)


def counts(method: PyramidDrop, n: int, depth: Depth = DEPTH) -> list[int]:
    """What is left after each cut, of n tokens."""
    length, out = torch.tensor([n]), []
    for cut in method.cuts(depth):
        view = TokenView.of(
            torch.zeros(1, int(length), 1), entry=torch.tensor([n]), layer=cut, depth=depth, length=length
        )
        length = method.keep(view)
        out.append(int(length))
    return out


def test_the_papers_pyramid() -> None:
    assert PyramidDrop().cuts(DEPTH) == (8, 16, 24)
    assert counts(PyramidDrop(), 576) == [288, 144, 72]
    assert sum(8 * n for n in [576, *counts(PyramidDrop(), 576)]) / 32 == 270


def test_the_papers_flops() -> None:
    def flops(n: int) -> int:  # per layer of width d = 4096 and MLP m = 11008, as the paper counts
        return 4 * n * 4096**2 + 2 * n**2 * 4096 + 2 * n * 4096 * 11008

    left = sum(8 * flops(n) for n in [576, *counts(PyramidDrop(), 576)])
    assert 1 - left / (32 * flops(576)) == pytest.approx(0.535, abs=5e-4)


def test_counts_are_shares_of_the_original() -> None:
    schedule = {8: 0.5, 16: 0.25, 24: 0.125}
    assert counts(PyramidDrop(budget=schedule), 576) == [288, 144, 72]
    assert counts(PyramidDrop(budget="0.25:50%,0.5:20%"), 100) == [50, 20]
    assert counts(PyramidDrop(budget={8: 100, 16: 30}), 576) == [100, 30]


@pytest.mark.parametrize(
    ("budget", "n", "expected"),
    [
        (72, 576, [288, 144, 72]),
        (1, 1000, [100, 10, 1]),
        (64, 576, [277, 133, 64]),
        (600, 576, [576, 576, 576]),
        (1.0, 576, [576, 576, 576]),
        (0.125, 100, [50, 25, 13]),  # the share's decay is not bent by the last count's rounding
        (0.125, 1, [1, 1, 1]),
        (0.125, 0, [0, 0, 0]),
        (Budget.between(4, 0.125), 576, [288, 144, 72]),
    ],
)
def test_a_single_budget_is_reached_geometrically(budget, n: int, expected: list[int]) -> None:
    assert counts(PyramidDrop(budget=budget), n) == expected


def test_a_schedule_that_grows_again_keeps_what_is_left() -> None:
    assert counts(PyramidDrop(budget={8: 0.25, 16: 0.5}), 100) == [25, 25]


def test_ranks_by_the_last_token() -> None:
    columns = [BEFORE, VISUAL, VISUAL, VISUAL, VISUAL, AFTER]
    view = sequence_view([columns], last_row([0.05, 0.09, 0.36, 0.18, 0.27, 0.05]), layer=1, depth=4)
    assert PyramidDrop(budget={1: 0.5}).apply(view).anchor.tolist() == [[1, 3]]


def test_reads_the_layer_about_to_run_and_renumbers() -> None:
    assert PyramidDrop().needs(8, DEPTH) == Needs(attention="next")
    assert PyramidDrop(positions="paper").position_rule is Positions.COMPACT


@pytest.mark.parametrize(
    "method",
    [
        PyramidDrop(layers=(0, 8)),
        PyramidDrop(layers=(8, 8)),
        PyramidDrop(layers=(16, 8)),
        PyramidDrop(layers=()),
        PyramidDrop(layers=(8, 32)),
        PyramidDrop(budget={0: 0.5}),
        PyramidDrop(budget={40: 0.5}),
    ],
)
def test_refuses_cuts_that_cannot_be(method: PyramidDrop) -> None:
    with pytest.raises(TokenryError):
        method.cuts(DEPTH)


def test_refuses_a_decoder_too_shallow_for_its_cuts() -> None:
    assert PyramidDrop().cuts(Depth(encoder=0, decoder=4)) == (1, 2, 3)
    with pytest.raises(TokenryError, match=r"Layer 0\.75|2 layers"):
        PyramidDrop().cuts(Depth(encoder=0, decoder=2))


def test_refuses_a_cut_that_is_not_its_own() -> None:
    with pytest.raises(TokenryError, match="not before 5"):
        PyramidDrop().apply(TokenView.of(torch.zeros(1, 4, 1), layer=5, depth=DEPTH))
