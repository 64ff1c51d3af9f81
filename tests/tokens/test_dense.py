"""Reductions whose outputs mix sources: overlapping pools, learned queries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.laws.strategies import laws, lengths, noise, seeds, tokens, widest
from tokenry.tokens import DenseReduction, Reduction, ReductionError, prefix_mask


def overlapping() -> DenseReduction:
    """Two outputs of three tokens; the middle token is in both."""
    matrix = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]])
    return DenseReduction(matrix, torch.tensor([2]), torch.tensor([[0, 2]]), torch.tensor([3]))


def random_dense(length: Tensor, width: int, count: Tensor, seed: int) -> DenseReduction:
    """Softmax queries over each item's tokens."""
    count = torch.where(length > 0, count, 0)
    logits = noise(len(length), widest(count), width, seed=seed)
    real = prefix_mask(count, widest(count))[:, :, None] & prefix_mask(length, width)[:, None, :]
    matrix = torch.where(real, logits.masked_fill(~real, -1e9).softmax(2), 0)
    anchor = torch.where(prefix_mask(count, widest(count)), 0, -1)
    return DenseReduction(matrix, count, anchor, length)


def test_by_hand() -> None:
    dense = overlapping()
    y = dense.apply(torch.tensor([[[2.0], [4.0], [8.0]]]))
    assert y.tolist() == [[[3.0], [7.0]]]
    # The middle token feeds the first output with 1/2 and the second with 1/4: two thirds of it come back from there.
    assert_close(dense.expand(y), torch.tensor([[[3.0], [(2 * 3 + 7) / 3], [7.0]]]))
    assert_close(dense.sizes, torch.tensor([[1 + 2 / 3, 1 + 1 / 3]]))
    assert dense.kept.tolist() == [[True, True, True]]
    assert_close(dense.ratio, torch.tensor([2 / 3]))
    assert not dense.is_selection
    assert not dense.is_identity


def test_an_unused_source_gets_fill() -> None:
    matrix = torch.tensor([[[1.0, 0.0]]])
    dense = DenseReduction(matrix, torch.tensor([1]), torch.tensor([[0]]), torch.tensor([2]))
    assert dense.kept.tolist() == [[True, False]]
    assert dense.expand(torch.tensor([[[5.0]]]), fill=-2).tolist() == [[[5.0], [-2.0]]]


def test_the_identity_matrix_is_the_identity() -> None:
    length = torch.tensor([3, 1, 0])
    hard = Reduction.identity(length, 4)
    dense = DenseReduction(hard.to_dense(), hard.count, hard.anchor, length)
    assert dense.is_identity
    assert not overlapping().is_identity


@laws
@given(lengths(), st.integers(0, 2), st.integers(0, 3), seeds)
def test_padding_and_neighbours_do_not_matter(length: Tensor, spare: int, m: int, seed: int) -> None:
    width = widest(length) + spare
    dense = random_dense(length, width, torch.full_like(length, m), seed)
    x = tokens(length, width, seed=seed)
    y = dense.apply(x)
    assert not y.isnan().any()
    for i, n in enumerate(length.tolist()):
        k = int(dense.count[i])
        alone = dense.item(i)
        assert_close(alone.apply(x[i : i + 1, :n]), y[i : i + 1, :k])
        assert_close(alone.expand(y[i : i + 1, :k], 2.0), dense.expand(y, 2.0)[i : i + 1, :n])
        assert_close(alone.sizes[0], dense.sizes[i, :k])
    assert_close(dense.sizes.sum(1), dense.kept.sum(1).float())


@laws
@given(lengths(), st.integers(0, 3), st.integers(0, 3), seeds)
def test_composing_is_applying_one_after_the_other(length: Tensor, m: int, k: int, seed: int) -> None:
    first = random_dense(length, widest(length), torch.full_like(length, m), seed)
    then = random_dense(first.count, first.width, torch.full_like(length, k), seed + 1)
    x = tokens(length, widest(length), seed=seed)
    both = first.compose(then)
    assert_close(both.apply(x), then.apply(first.apply(x)))
    assert torch.equal(both.length, length)
    assert torch.equal(both.count, then.count)


def test_a_selection_of_outputs_keeps_their_anchors() -> None:
    both = overlapping().compose(Reduction.select(torch.tensor([[1]]), 2))
    assert both.anchor.tolist() == [[2]]
    assert both.to_dense().tolist() == [[[0.0, 0.25, 0.75]]]


def test_to_moves_every_part() -> None:
    # Validation reads values, which "meta" has not: the same device must do.
    moved = overlapping().to("cpu")
    assert moved.matrix.equal(overlapping().matrix)
    assert moved.anchor.equal(overlapping().anchor)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": torch.tensor([2, 2])}, "parts disagree"),
        ({"length": torch.tensor([3, 3])}, "parts disagree"),
        ({"anchor": torch.tensor([[0]])}, "parts disagree"),
        ({"count": torch.tensor([1])}, "padding rows or columns"),
        ({"length": torch.tensor([2])}, "padding rows or columns"),
        ({"matrix": torch.full((1, 2, 3), torch.nan)}, "not a number"),
        ({"anchor": torch.tensor([[0, 3]])}, r"\[\[0, 3\]\]"),
        ({"anchor": torch.tensor([[0, -1]])}, r"\[\[0, -1\]\]"),
    ],
)
def test_refused(change: dict[str, Tensor], message: str) -> None:
    good = overlapping()
    parts = {"matrix": good.matrix, "count": good.count, "anchor": good.anchor, "length": good.length}
    with pytest.raises(ReductionError, match=message):
        DenseReduction(**(parts | change))


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused() -> None:
    dense = overlapping()
    with pytest.raises(ReductionError, match=r"Tokens \(1, 2, 1\)"):
        dense.apply(torch.ones(1, 2, 1))
    with pytest.raises(ReductionError, match=r"Outputs \(1, 3, 1\)"):
        dense.expand(torch.ones(1, 3, 1))
    with pytest.raises(ReductionError, match=r"leaves \[2\].*expects \[3\]"):
        dense.compose(dense)
    with pytest.raises(ReductionError, match=r"leaves \[2\].*expects \[3\]"):
        Reduction.identity(torch.tensor([2])).compose(dense)
