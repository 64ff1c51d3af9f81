"""What holds for every reduction of every ragged batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tests.laws.strategies import (
    Batch,
    dtypes,
    laws,
    lengths,
    masks,
    merges,
    noise,
    reduced_batches,
    reductions,
    seeds,
    selections,
    tokens,
    well_formed,
    widest,
)
from tokenry.tokens import DenseReduction, Reduction, prefix_mask


def zeroed(x: Tensor) -> Tensor:
    """Tokens with 0 for the NaN that the batch's padding holds."""
    return torch.where(x.isnan(), 0, x)


def same(a: Reduction, b: Reduction) -> bool:
    """Whether two reductions are equal, part by part."""
    return all(
        torch.equal(getattr(a, part), getattr(b, part))
        for part in ("group", "weight", "count", "anchor", "length")
    )


def dense(reduction: Reduction) -> DenseReduction:
    return DenseReduction(reduction.to_dense(), reduction.count, reduction.anchor, reduction.length)


@laws
@given(reduced_batches())
def test_every_constructor_makes_a_well_formed_reduction(drawn: tuple[Batch, Reduction]) -> None:
    well_formed(drawn[1])


@laws
@given(lengths(), st.integers(0, 2), dtypes, seeds)
def test_identity_changes_nothing(length: Tensor, spare: int, dtype: torch.dtype, seed: int) -> None:
    width = widest(length) + spare
    x = tokens(length, width, seed=seed, dtype=dtype)
    identity = Reduction.identity(length, width)
    well_formed(identity)
    assert identity.is_identity
    assert identity.is_selection
    assert identity.apply(x).dtype == dtype
    assert torch.equal(identity.apply(x), zeroed(x)[:, : widest(length)])
    assert torch.equal(identity.expand(identity.apply(x)), zeroed(x))
    assert torch.equal(identity.ratio, torch.ones(len(length)))


@laws
@given(reduced_batches())
def test_apply_is_multiplication_by_the_matrix(drawn: tuple[Batch, Reduction]) -> None:
    batch, reduction = drawn
    y = reduction.apply(batch.x)
    exact = reduction.to_dense().double() @ zeroed(batch.x).double()
    assert y.dtype == batch.x.dtype
    # Sums are float32 and rounded once: one unit in the last place of the tokens' own type.
    assert_close(y.double(), exact, rtol=torch.finfo(y.dtype).eps, atol=1e-6)
    assert bool((y[~reduction.mask] == 0).all())


@laws
@given(reduced_batches(torch.float32).filter(lambda drawn: drawn[0].x.numel() > 0), seeds)
def test_gradients_are_those_of_the_matrix(drawn: tuple[Batch, Reduction], seed: int) -> None:
    batch, reduction = drawn
    x = zeroed(batch.x).requires_grad_()
    y = reduction.apply(x)
    upstream = noise(*y.shape, seed=seed)
    (y * upstream).sum().backward()
    assert_close(x.grad, reduction.to_dense().mT @ upstream)


@laws
@given(lengths(), st.integers(0, 2), st.data(), dtypes, seeds)
def test_expanding_a_selection_puts_tokens_back(
    length: Tensor, spare: int, data: st.DataObject, dtype: torch.dtype, seed: int
) -> None:
    width = widest(length) + spare
    reduction = data.draw(selections(length, width) | masks(length, width))
    x = tokens(length, width, seed=seed, dtype=dtype)
    back = reduction.expand(reduction.apply(x), fill=-7.0)
    assert reduction.is_selection
    assert torch.equal(back, torch.where(reduction.kept[..., None], x, -7.0))


@laws
@given(reduced_batches())
def test_expanding_gives_every_source_the_value_of_its_output(drawn: tuple[Batch, Reduction]) -> None:
    batch, reduction = drawn
    y = reduction.apply(batch.x)
    back = reduction.expand(y, fill=5.0)
    for i, row in enumerate(reduction.group.tolist()):
        for j, slot in enumerate(row):
            expected = y[i, slot] if slot >= 0 else torch.full_like(back[i, j], 5.0)
            assert torch.equal(back[i, j], expected)


@laws
@given(lengths(), st.integers(0, 2), st.data(), seeds)
def test_the_plain_merge_is_the_mean_of_each_group(
    length: Tensor, spare: int, data: st.DataObject, seed: int
) -> None:
    width = widest(length) + spare
    reduction = data.draw(merges(length, width, weighted=False))
    x = tokens(length, width, seed=seed)
    y = reduction.apply(x)
    for i in range(len(length)):
        for slot in range(int(reduction.count[i])):
            members = (reduction.group[i] == slot).nonzero()[:, 0]
            assert_close(y[i, slot], x[i, members].mean(0))
            assert int(reduction.anchor[i, slot]) == int(members[0])
    outputs = reduction.to_dense().sum(2)
    assert_close(outputs, reduction.mask.float())


@laws
@given(reduced_batches(), st.data())
def test_composing_is_applying_one_after_the_other(
    drawn: tuple[Batch, Reduction], data: st.DataObject
) -> None:
    batch, first = drawn
    then = data.draw(reductions(first.count, first.width))
    both = first.compose(then)
    well_formed(both)
    assert_close(both.to_dense(), then.to_dense() @ first.to_dense())
    x = batch.x.float()
    assert_close(both.apply(x), then.apply(first.apply(x)))
    y = then.apply(first.apply(x))
    assert_close(both.expand(y, 2.0), first.expand(then.expand(y, 2.0), 2.0))
    assert torch.equal(both.count, then.count)
    assert torch.equal(both.length, first.length)
    # An output's position is the position, two steps back, of the token it is named after.
    assert torch.equal(both.apply(x).isnan(), torch.zeros_like(both.apply(x), dtype=torch.bool))
    for i in range(len(both.count)):
        assert both.anchor[i, : both.count[i]].tolist() == [
            int(first.anchor[i, a]) for a in then.anchor[i, : then.count[i]]
        ]


@laws
@given(reduced_batches(torch.float32), st.data())
def test_composition_is_associative_and_has_the_identity(
    drawn: tuple[Batch, Reduction], data: st.DataObject
) -> None:
    _, a = drawn
    b = data.draw(reductions(a.count, a.width))
    c = data.draw(reductions(b.count, b.width))
    left, right = a.compose(b).compose(c), a.compose(b.compose(c))
    assert_close(left.weight, right.weight)
    assert torch.equal(left.group, right.group)
    assert torch.equal(left.anchor, right.anchor)
    assert same(a.compose(Reduction.identity(a.count, a.width)), a)


@laws
@given(lengths(), st.data())
def test_the_identity_before_a_reduction_changes_nothing(length: Tensor, data: st.DataObject) -> None:
    a = data.draw(reductions(length, widest(length)))
    assert same(Reduction.identity(length).compose(a), a)


@laws
@given(reduced_batches())
def test_what_it_says_about_itself_adds_up(drawn: tuple[Batch, Reduction]) -> None:
    _, reduction = drawn
    assert torch.equal(reduction.sizes.sum(1), reduction.kept.sum(1))
    assert torch.equal(reduction.sizes > 0, reduction.mask)
    assert torch.equal(reduction.mask.sum(1), reduction.count)
    for ratio, count, n in zip(
        reduction.ratio.tolist(), reduction.count.tolist(), reduction.length.tolist(), strict=True
    ):
        assert abs(ratio - (count / n if n else 1)) < 1e-6
    identical = all(
        torch.equal(matrix[:n, :n], torch.eye(n)) and int(count) == n
        for matrix, count, n in zip(
            reduction.to_dense(), reduction.count, reduction.length.tolist(), strict=True
        )
    )
    assert reduction.is_identity == identical
    one_hot = reduction.to_dense()
    assert reduction.is_selection == bool(((one_hot == 1).sum(2) == reduction.mask).all()) & bool(
        ((one_hot == 0) | (one_hot == 1)).all()
    )


@laws
@given(reduced_batches())
def test_an_item_of_a_batch_is_that_item_alone(drawn: tuple[Batch, Reduction]) -> None:
    batch, reduction = drawn
    y = reduction.apply(batch.x)
    for i in range(len(batch.length)):
        n, m = int(reduction.length[i]), int(reduction.count[i])
        alone = reduction.item(i)
        well_formed(alone)
        assert torch.equal(alone.apply(batch.x[i : i + 1, :n])[0], y[i, :m])
        assert torch.equal(alone.to_dense()[0], reduction.to_dense()[i, :m, :n])
        assert same(alone, reduction.item(i - len(batch.length)))
        dense_item = dense(reduction).item(i)
        assert torch.equal(dense_item.to_dense(), alone.to_dense())
        assert torch.equal(dense_item.anchor, alone.anchor)


@laws
@given(lengths(), st.integers(0, 2), st.data())
def test_constructing_a_batch_is_constructing_its_items(
    length: Tensor, spare: int, data: st.DataObject
) -> None:
    width = widest(length) + spare
    merged = data.draw(merges(length, width, weighted=False))
    selected = data.draw(selections(length, width))
    for i, n in enumerate(length.tolist()):
        assert same(merged.item(i), Reduction.merge(merged.group[i : i + 1, :n]))
        indices = selected.anchor[i : i + 1, : selected.count[i]]
        assert same(selected.item(i), Reduction.select(indices, n))
        masked = Reduction.from_mask(selected.kept, length)
        assert same(masked.item(i), Reduction.from_mask(selected.kept[i : i + 1, :n]))


@laws
@given(reduced_batches(), st.data(), seeds)
def test_a_dense_reduction_with_the_same_matrix_behaves_the_same(
    drawn: tuple[Batch, Reduction], data: st.DataObject, seed: int
) -> None:
    batch, hard = drawn
    soft = dense(hard)
    eps = torch.finfo(batch.x.dtype).eps
    assert_close(soft.apply(batch.x), hard.apply(batch.x), rtol=2 * eps, atol=1e-6)
    y = tokens(hard.count, hard.width, seed=seed, dtype=batch.x.dtype)
    assert_close(soft.expand(y, 3.0), hard.expand(y, 3.0), rtol=2 * eps, atol=1e-6)
    for part in ("kept", "mask", "count", "anchor", "length", "ratio"):
        assert torch.equal(getattr(soft, part), getattr(hard, part)), part
    assert soft.width == hard.width
    assert_close(soft.sizes, hard.sizes.float())
    assert soft.is_identity == hard.is_identity
    assert torch.equal(soft.to_dense(), hard.to_dense())

    then = data.draw(reductions(hard.count, hard.width))
    expected = hard.compose(then)
    for both in (soft.compose(then), soft.compose(dense(then)), hard.compose(dense(then))):
        assert isinstance(both, DenseReduction)
        assert_close(both.to_dense(), expected.to_dense())
        assert torch.equal(both.anchor, expected.anchor)
        assert torch.equal(both.count, expected.count)


scores = st.sampled_from([-torch.inf, -1.0, -0.5, 0.0, 0.25, 1.0, 3e4, torch.inf])


@laws
@given(lengths(), st.integers(0, 2), st.data(), dtypes)
def test_top_is_a_sort_by_score_then_position(
    length: Tensor, spare: int, data: st.DataObject, dtype: torch.dtype
) -> None:
    width = widest(length) + spare
    rows = [data.draw(st.lists(scores, min_size=n, max_size=n)) for n in length.tolist()]
    keep = [data.draw(st.integers(0, n)) for n in length.tolist()]
    padding = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0]))
    padded = torch.tensor([row + [padding] * (width - len(row)) for row in rows]).reshape(len(rows), width)
    reduction = Reduction.top(padded.to(dtype), torch.tensor(keep, dtype=torch.long), length)
    well_formed(reduction)
    for i, (row, k) in enumerate(zip(rows, keep, strict=True)):
        best = sorted(range(len(row)), key=lambda j, row=row: (-row[j], j))[:k]
        assert reduction.kept[i].nonzero()[:, 0].tolist() == sorted(best)
        assert reduction.anchor[i, :k].tolist() == sorted(best)


@laws
@given(lengths(max_length=60), seeds, st.data())
def test_top_agrees_with_a_sort_on_long_rows_full_of_ties(
    length: Tensor, seed: int, data: st.DataObject
) -> None:
    """An unstable sort happens to keep the order of short rows."""
    width = widest(length)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(3, (len(length), width), generator=generator).float()
    keep = torch.tensor([data.draw(st.integers(0, n)) for n in length.tolist()], dtype=torch.long)
    reduction = Reduction.top(drawn, keep, length)
    for i, (n, k) in enumerate(zip(length.tolist(), keep.tolist(), strict=True)):
        best = sorted(range(n), key=lambda j, i=i: (-float(drawn[i, j]), j))[:k]
        assert reduction.anchor[i, :k].tolist() == sorted(best)
        assert torch.equal(reduction.mask[i], prefix_mask(keep, reduction.width)[i])
