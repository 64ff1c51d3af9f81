"""Bipartite soft matching: exact examples of its specification."""

from __future__ import annotations

import torch

from tokenry.reduce.shared.matching import bipartite_match, merge_onto


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


def test_merge_onto_is_in_raster_order() -> None:
    target = torch.tensor([[4, 1, -1, 1, 4], [0, 0, -1, -1, -1]])
    reduction = merge_onto(target, torch.tensor([5, 3]))
    assert reduction.anchor.tolist() == [[1, 4], [0, -1]]
    assert reduction.group.tolist() == [[1, 0, -1, 0, 1], [0, 0, -1, -1, -1]]
    assert reduction.weight.tolist() == [[0.5, 0.5, 0, 0.5, 0.5], [0.5, 0.5, 0, 0, 0]]
