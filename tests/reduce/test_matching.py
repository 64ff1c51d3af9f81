"""Bipartite soft matching: exact examples of its specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenry.reduce.shared.matching import bipartite_match, merge_onto
from tokenry.tokens import ReductionError


def test_six_tokens() -> None:
    x = torch.tensor([[[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1], [-1, 0]]])
    reduction = bipartite_match(x, torch.tensor([6]), torch.tensor([2])).reduction
    merged = torch.tensor([[[1, 1], [1, 0.05], [0.05, 1], [-1, 0]]])
    assert torch.allclose(reduction.apply(x), merged)
    assert reduction.sizes.tolist() == [[1, 2, 2, 1]]
    assert reduction.anchor.tolist() == [[4, 1, 3, 5]]


def test_one_partner_may_take_in_several() -> None:
    x = torch.tensor([[[1, 0], [1, 0.0], [1, 0.1], [-1, 0]]])
    reduction = bipartite_match(x, torch.tensor([4]), torch.tensor([2])).reduction
    assert reduction.sizes.tolist() == [[3, 1]]
    assert torch.allclose(reduction.apply(x), torch.tensor([[[1, 0.1 / 3], [-1, 0]]]))


def test_equals_plain_loops_on_ragged_items() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 11, 5, generator=g)
    length, r = torch.tensor([11, 8, 1, 0]), torch.tensor([3, 4, 0, 0])
    reduction = bipartite_match(x, length, r).reduction
    assert reduction.count.tolist() == [8, 4, 1, 0]
    for i in range(4):
        n = int(length[i])
        u = torch.nn.functional.normalize(x[i, :n], dim=1)
        a, b = list(range(0, n, 2)), list(range(1, n, 2))
        best = {p: max(b, key=lambda q, p=p: float(u[p] @ u[q])) for p in a} if b else {}
        order = sorted(a, key=lambda p: -float(u[p] @ u[best[p]])) if b else a
        sources = order[: int(r[i])]
        outputs = [[p] for p in order[int(r[i]) :]] + [[q, *(p for p in sources if best[p] == q)] for q in b]
        for slot, members in enumerate(outputs):
            assert reduction.group[i].eq(slot).nonzero()[:, 0].tolist() == sorted(members)
            assert int(reduction.anchor[i, slot]) == members[0]


def _by_hand(
    x: Tensor, r: int, every: int, protected: set[int], threshold: float
) -> tuple[list[list[int]], dict[int, float]]:
    """Outputs as lists of tokens, the one that stays first, and the best similarity of every source."""
    u = torch.nn.functional.normalize(x.double(), dim=1)
    to = [i for i in range(len(x)) if i % every == every - 1]
    sources = [i for i in range(len(x)) if i not in to]
    best: dict[int, int] = {}
    for p in sources:
        choices = [q for q in to if q not in protected]
        if choices and p not in protected:
            best[p] = max(choices, key=lambda q, p=p: float(u[p] @ u[q]))
    found = {p: float(u[p] @ u[q]) for p, q in best.items()}
    order = sorted(sources, key=lambda p: -found.get(p, -9.0))
    merged = [p for p in order if p in found and found[p] >= threshold][:r]
    alone = [[p] for p in order if p not in merged]
    return alone + [[q, *(p for p in merged if best[p] == q)] for q in to], found


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_equals_plain_loops_with_destinations_protection_and_a_threshold(
    every: int, threshold: float | None
) -> None:
    g = torch.Generator().manual_seed(every)
    x = torch.randn(3, 13, 4, generator=g)
    length, r = torch.tensor([13, 9, 2]), torch.tensor([4, 2, 0])
    protected = torch.zeros(3, 13, dtype=torch.bool)
    protected[0, [0, 3]] = protected[1, [1, 5]] = True
    found = bipartite_match(x, length, r, every=every, protected=protected, threshold=threshold)
    for i in range(3):
        marked = set(protected[i].nonzero()[:, 0].tolist())
        least = -9.0 if threshold is None else threshold
        outputs, similarity = _by_hand(x[i, : int(length[i])], int(r[i]), every, marked, least)
        assert int(found.reduction.count[i]) == len(outputs)
        for slot, members in enumerate(outputs):
            assert found.reduction.group[i].eq(slot).nonzero()[:, 0].tolist() == sorted(members)
            assert int(found.reduction.anchor[i, slot]) == members[0]
        for token in range(13):
            expected = similarity.get(token, -float("inf"))
            assert float(found.similarity[i, token]) == pytest.approx(expected, abs=1e-6)


def test_more_merges_than_tokens_that_may_go_are_refused() -> None:
    x, length = torch.randn(1, 4, 3), torch.tensor([4])
    protected = torch.tensor([[True, False, False, False]])
    with pytest.raises(ReductionError, match=r"Cannot merge \[2\] tokens away: \[1\] have a token to go to"):
        bipartite_match(x, length, torch.tensor([2]), protected=protected)


def test_merge_onto_is_in_raster_order() -> None:
    target = torch.tensor([[4, 1, -1, 1, 4], [0, 0, -1, -1, -1]])
    reduction = merge_onto(target, torch.tensor([5, 3]))
    assert reduction.anchor.tolist() == [[1, 4], [0, -1]]
    assert reduction.group.tolist() == [[1, 0, -1, 0, 1], [0, 0, -1, -1, -1]]
    assert reduction.weight.tolist() == [[0.5, 0.5, 0, 0.5, 0.5], [0.5, 0.5, 0, 0, 0]]
