"""Recoverable Compression: outlier factors, the three sets, exact budgets, clusters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tokenry.reduce.recoverable_compression import RecoverableCompression, density_peaks
from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.reduce.shared.outliers import is_outlier, local_outlier_factor
from tokenry.tokens import Depth, Needs, Positions, TokenryError, TokenView

DEPTH = Depth(encoder=4, decoder=2)
SCORES = [0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.16, 0.17, 0.60, 0.95]


def plain_lof(scores: list[float], k: int) -> list[float]:
    """Breunig et al., with lists; neighbours at equal distance: the smaller number."""
    n = len(scores)
    k = min(k, n - 1)
    order = sorted(range(n), key=scores.__getitem__)
    near = [
        sorted((j for j in order if j != i), key=lambda j, i=i: abs(scores[i] - scores[j]))[:k]
        for i in range(n)
    ]
    radius = [abs(scores[i] - scores[near[i][-1]]) for i in range(n)]
    density = [
        1 / (sum(max(radius[j], abs(scores[i] - scores[j])) for j in near[i]) / k + 1e-10) for i in range(n)
    ]
    return [sum(density[j] for j in near[i]) / k / density[i] for i in range(n)]


def everyone(n: int, rows: int = 1) -> torch.Tensor:
    return torch.ones(rows, n, dtype=torch.bool)


def test_outlier_factors_of_ten_scores() -> None:
    factor = local_outlier_factor(torch.tensor([SCORES], dtype=torch.float64), everyone(10), 3)[0]
    expected = torch.tensor([1.056] * 3 + [0.952] * 3 + [1.111] * 2 + [16.085, 19.546], dtype=torch.float64)
    assert torch.allclose(factor, expected, atol=1e-3)
    kept = is_outlier(torch.tensor([SCORES]), everyone(10), 3, 1.5)
    assert kept[0].nonzero()[:, 0].tolist() == [8, 9]


@pytest.mark.parametrize("k", [1, 3, 20, 100])
def test_outlier_factors_equal_plain_python(k: int) -> None:
    g = torch.Generator().manual_seed(k)
    scores = torch.rand(3, 40, generator=g, dtype=torch.float64) ** 4
    member = torch.rand(3, 40, generator=g) < torch.tensor([[1.0], [0.6], [0.1]])
    member[2, :3] = True
    factor = local_outlier_factor(scores, member, k)
    for i in range(3):
        expected = torch.tensor(plain_lof(scores[i][member[i]].tolist(), k), dtype=torch.float64)
        assert torch.allclose(factor[i][member[i]], expected, rtol=1e-9)
        assert factor[i][~member[i]].eq(1).all()


def test_outlier_factors_do_not_depend_on_scale_or_order() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(1, 50, generator=g)
    shuffle = torch.randperm(50, generator=g)
    factor = local_outlier_factor(scores, everyone(50), 5)
    assert torch.allclose(local_outlier_factor(scores * 2**-12, everyone(50), 5), factor, rtol=1e-3)
    assert torch.allclose(local_outlier_factor(scores[:, shuffle], everyone(50), 5), factor[:, shuffle])


def test_low_outliers_do_not_stand_out() -> None:
    scores = torch.tensor([[-5.0, 1.0, 1.1, 1.2, 1.3, 9.0]])
    assert (local_outlier_factor(scores, everyone(6), 2)[0] > 1.5).tolist() == [True, *[False] * 4, True]
    assert is_outlier(scores, everyone(6), 2, 1.5)[0].tolist() == [*[False] * 5, True]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_members_do_not_stand_out(n: int) -> None:
    member = torch.arange(5)[None] < n
    assert not is_outlier(torch.rand(1, 5), member, 3, 1.5).any()


# --- the method ------------------------------------------------------------------------------------------------------


def view_of(
    items: int = 2, n: int = 60, *, seed: int = 0, length: list[int] | None = None, words: int = 5
) -> TokenView:
    """Random tokens; a few with high [CLS] attention, a few others (30..33) like the text."""
    g = torch.Generator().manual_seed(seed)
    text = torch.randn(items, words, 16, generator=g)
    x = torch.randn(items, n, 16, generator=g)
    if n > 33 and words:
        x[:, 30:34] += 3 * text.mean(1, keepdim=True)
    row = torch.rand(items, 2, n, generator=g) * 0.01
    for i in range(items):
        row[i, :, torch.randperm(n, generator=g)[:10]] += torch.rand(10, generator=g) * 0.5 + 0.1
    return TokenView.of(
        x,
        length=torch.tensor(length or [n] * items),
        cls_rows={2: row},
        depth=DEPTH,
        text=text,
        text_length=torch.full((items,), words),
    )


def test_every_token_is_in_exactly_one_place() -> None:
    view, method = view_of(), RecoverableCompression()
    salient, _ = method.salient(view)
    asked, _ = method.recovered(view, salient)
    reduction = method.apply(view)
    assert not (salient & asked).any()
    assert asked[:, 30:34].any()
    assert reduction.kept.all()
    clusters = reduction.sizes.clone()
    alone = salient.sum(1) + asked.sum(1)
    assert reduction.count.equal(alone + 8)
    assert clusters.sum(1).tolist() == [60, 60]
    for i in range(2):
        own = (salient | asked)[i].nonzero()[:, 0]
        assert reduction.weight[i, own].eq(1).all()  # kept as they are
        assert set(own.tolist()) <= set(reduction.anchor[i].tolist())
        assert reduction.anchor[i][reduction.anchor[i] >= 0].diff().gt(0).all()


def test_the_question_changes_what_is_recovered_and_not_what_is_salient() -> None:
    view, other = view_of(), view_of()
    other = TokenView.of(
        view.features,
        cls_rows={2: view.cls_attention(2)},
        depth=DEPTH,
        text=view.features[:, 40:41] * 1.0,
        text_length=torch.tensor([1, 1]),
    )
    method = RecoverableCompression()
    salient = method.salient(view)[0]
    assert salient.equal(method.salient(other)[0])
    assert not method.recovered(view, salient)[0].equal(method.recovered(other, salient)[0])


def test_padding_of_the_text_does_not_count() -> None:
    view, method = view_of(), RecoverableCompression()
    salient, _ = method.salient(view)
    garbage = torch.cat([view.text, torch.full((2, 4, 16), 100.0)], 1)
    padded = replace(view, text=garbage)
    for a, b in zip(method.recovered(view, salient), method.recovered(padded, salient), strict=True):
        assert a.equal(b)


def test_without_text_nothing_is_recovered() -> None:
    view = view_of(words=0)
    method = RecoverableCompression()
    salient, _ = method.salient(view)
    assert not method.recovered(view, salient)[0].any()
    assert method.apply(view).count.equal(salient.sum(1) + 8)


def test_constant_scores_keep_the_first_min_keep() -> None:
    view = TokenView.of(
        torch.randn(1, 30, 4),
        cls_rows={2: torch.full((1, 2, 30), 0.01)},
        depth=DEPTH,
        text=torch.zeros(1, 1, 4),
        text_length=torch.tensor([1]),
    )
    salient, _ = RecoverableCompression(min_keep=5).salient(view)
    assert salient[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert RecoverableCompression(min_keep=5).apply(view).count.tolist() == [13]


@pytest.mark.parametrize("k", [1, 2, 3, 8, 9, 16, 17, 30, 51, 52, 53, 59, 60])
def test_a_fixed_budget_is_met_exactly(k: int) -> None:
    view = view_of(3, length=[60, 60, 37])
    reduction = RecoverableCompression(budget=k).apply(view)
    assert reduction.count.tolist() == [k, k, min(k, 37)]
    ones = reduction.to_dense().sum(2)
    assert torch.allclose(ones[reduction.mask], torch.ones_like(ones[reduction.mask]))
    assert reduction.item(2).is_identity == (k >= 37)


def test_everything_is_the_identity() -> None:
    assert RecoverableCompression(budget=1.0).apply(view_of(length=[60, 5])).is_identity


def test_a_small_budget_cuts_both_sets_from_below() -> None:
    view, method = view_of(1), RecoverableCompression(budget=12)
    salient, score = method.salient(view)
    asked, relevance = method.recovered(view, salient)
    reduction = method.apply(view)
    alone = 12 - 6
    n_salient = math.ceil(int(salient.sum()) * alone / int(salient.sum() + asked.sum()))
    best = sorted(salient[0].nonzero()[:, 0].tolist(), key=lambda j: -score[0, j])[:n_salient]
    found = sorted(asked[0].nonzero()[:, 0].tolist(), key=lambda j: -relevance[0, j])[: alone - n_salient]
    single = {int(a) for a, s in zip(reduction.anchor[0], reduction.sizes[0], strict=True) if s == 1}
    assert set(best) | set(found) <= single


def test_a_large_budget_is_filled_by_cls_attention() -> None:
    view, method = view_of(1), RecoverableCompression(budget=40)
    salient, score = method.salient(view)
    asked, _ = method.recovered(view, salient)
    found = (salient | asked)[0]
    others = sorted((~found).nonzero()[:, 0].tolist(), key=lambda j: -score[0, j])
    expected = set(found.nonzero()[:, 0].tolist()) | set(others[: 32 - int(found.sum())])
    assert expected <= set(method.apply(view).anchor[0].tolist())


def test_bounds_hold() -> None:
    view = view_of()
    free = RecoverableCompression().apply(view).count
    assert RecoverableCompression(budget="8..14").apply(view).count.tolist() == [14, 14]
    assert RecoverableCompression(budget="40..100%").apply(view).count.tolist() == [40, 40]
    assert RecoverableCompression(budget="8..50").apply(view).count.equal(free)


def test_items_do_not_see_each_other() -> None:
    view = view_of(3, length=[60, 41, 9])
    for method in (RecoverableCompression(), RecoverableCompression(budget=0.4)):
        together = method.apply(view)
        for i, n in enumerate([60, 41, 9]):
            alone = TokenView.of(
                view.features[i : i + 1, :n],
                cls_rows={2: view.cls_attention(2)[i : i + 1, :, :n]},
                depth=DEPTH,
                text=view.text[i : i + 1],
                text_length=view.text_length[i : i + 1],
            )
            assert together.item(i).group.equal(method.apply(alone).group)


def test_density_peaks_finds_blobs() -> None:
    """Three blobs, one of them far larger: one centre each, everybody with their own."""
    g = torch.Generator().manual_seed(0)
    middles = torch.randn(3, 32, generator=g)
    blob = torch.tensor([0] * 20 + [1] * 6 + [2] * 6)
    x = (middles[blob] + 0.05 * torch.randn(32, 32, generator=g))[None]
    likeness = cosines(unit_rows(x), unit_rows(x))
    centre, nearest = density_peaks(likeness, everyone(32), torch.tensor([3]), 5)
    assert sorted(blob[centre[0]].tolist()) == [0, 1, 2]
    assert blob[nearest[0]].equal(blob)


def test_density_peaks_equals_plain_python() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 25, 6, generator=g)
    member = torch.rand(1, 25, generator=g) < 0.8
    likeness = cosines(unit_rows(x), unit_rows(x))
    centre, nearest = density_peaks(likeness, member, torch.tensor([4]), 5)
    ids = member[0].nonzero()[:, 0].tolist()
    d = {(i, j): max(0.0, 2 - 2 * float(likeness[0, i, j])) for i in ids for j in ids}
    rho = {i: math.exp(-sum(sorted(d[i, j] for j in ids if j != i)[:5]) / 5) for i in ids}
    top = max(d[i, j] for i in ids for j in ids if i != j)
    delta = {i: math.sqrt(min((d[i, j] for j in ids if rho[j] > rho[i]), default=top)) for i in ids}
    centres = sorted(ids, key=lambda i: -rho[i] * delta[i])[:4]
    assert centre[0].nonzero()[:, 0].tolist() == sorted(centres)
    for i in ids:
        assert int(nearest[0, i]) == (i if i in centres else min(centres, key=lambda c, i=i: d[i, c]))


def test_what_it_asks_for_and_refuses() -> None:
    assert RecoverableCompression().needs(0, Depth(24, 32)) == Needs(cls_layers=(22,), text=True)
    assert RecoverableCompression(positions="paper").position_rule is Positions.COMPACT
    with pytest.raises(TokenryError, match="min_keep=0"):
        RecoverableCompression(min_keep=0)
    rows = {2: torch.rand(1, 2, 9)}
    with pytest.raises(TokenryError, match="text"):
        RecoverableCompression().apply(TokenView.of(torch.randn(1, 9, 4), cls_rows=rows, depth=DEPTH))
