"""DivPrune and the greedy diverse selection it shares with ToDRE."""

from __future__ import annotations

import math
import time

import pytest
import torch

from tests.reduce.explicit import directions
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.shared import diverse
from tokenry.reduce.shared.diverse import cosines, greedy_diverse, unit_rows
from tokenry.tokens import Reduction, TokenView


def picks_of(x: torch.Tensor, k: int) -> list[int]:
    n = torch.tensor([x.shape[1]])
    return greedy_diverse(x, n, torch.tensor([k]), rule="max")[0].tolist()


def kept(x: torch.Tensor, budget: int | float, length: torch.Tensor | None = None) -> Reduction:
    return DivPrune(budget=budget).apply(TokenView.of(x, length=length))


def double_loop(x: torch.Tensor, k: int) -> list[int]:
    """The paper's algorithm, plainly: lists, floats and loops."""
    rows = [[v / math.hypot(*row) for v in row] for row in x.double().tolist()]
    n = len(rows)

    def distance(i: int, j: int) -> float:
        return 1 - sum(a * b for a, b in zip(rows[i], rows[j], strict=True))

    nearest = [min(distance(i, j) for j in range(n) if j != i) for i in range(n)]
    chosen = [max(range(n), key=nearest.__getitem__)]
    while len(chosen) < k:
        rest = [j for j in range(n) if j not in chosen]
        chosen.append(max(rest, key=lambda j: min(distance(i, j) for i in chosen)))
    return chosen


def smallest_distance(x: torch.Tensor, chosen: torch.Tensor) -> float:
    similarity = unit_rows(x[None].double())[0][chosen]
    similarity = similarity @ similarity.T
    return float((1 - similarity.fill_diagonal_(-1)).min())


def test_four_directions() -> None:
    x = directions(0, 10, 90, 200)
    similarity = cosines(unit_rows(x), unit_rows(x))[0].fill_diagonal_(-1)
    assert torch.allclose(1 - similarity.amax(1), torch.tensor([0.0152, 0.0152, 0.8264, 1.3420]), atol=1e-4)
    assert picks_of(x, 3) == [3, 1, 2]
    assert kept(x, 3).anchor.tolist() == [[1, 2, 3]]


def test_five_directions() -> None:
    assert picks_of(directions(0, 5, 100, 110, 230), 3) == [4, 1, 3]


def test_the_papers_budget() -> None:
    assert int(DivPrune().keep(TokenView.of(torch.zeros(1, 576, 1)))) == 56


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_double_loop(seed: int) -> None:
    x = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(seed))
    assert picks_of(x, 15) == double_loop(x[0], 15)


def test_beats_a_thousand_random_subsets() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 64, 16, generator=g)
    ours = smallest_distance(x[0], kept(x, 16).anchor[0])
    others = [smallest_distance(x[0], torch.randperm(64, generator=g)[:16]) for _ in range(1000)]
    assert ours >= max(others)


def test_is_within_a_factor_two_of_the_best_angle() -> None:
    """Greedy max-min is a 2-approximation in a metric; the angle is one, and ranks as 1 - cos does."""
    from itertools import combinations

    for seed in range(10):
        x = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(seed))
        best = max(smallest_distance(x[0], torch.tensor(c)) for c in combinations(range(10), 4))
        ours = smallest_distance(x[0], kept(x, 4).anchor[0])
        assert math.acos(1 - ours) >= math.acos(max(-1, 1 - best)) / 2 - 1e-6


def test_copies_are_kept_only_when_nothing_else_is_left() -> None:
    g = torch.Generator().manual_seed(0)
    distinct = torch.randn(1, 20, 8, generator=g)
    x = torch.cat([distinct, distinct * 3, distinct], 1)
    anchor = kept(x, 20).anchor[0]
    assert (anchor % 20).unique().numel() == 20
    assert kept(x, 33).anchor[0].unique().numel() == 33  # duplicates, but never the same token twice


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_and_zero_tokens(dtype: torch.dtype) -> None:
    assert kept(torch.ones(1, 6, 4, dtype=dtype), 3).count.tolist() == [3]
    assert kept(torch.zeros(2, 6, 4, dtype=dtype), 3).anchor.tolist() == [[0, 1, 2]] * 2
    assert kept(torch.randn(1, 1, 4).to(dtype), 1).anchor.tolist() == [[0]]


def test_items_do_not_see_each_other() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(3, 50, 16, generator=g)
    length = torch.tensor([50, 31, 2])
    together = kept(x, 0.3, length)
    assert together.count.tolist() == [15, 9, 1]
    for i, n in enumerate(length.tolist()):
        assert together.item(i).anchor.equal(kept(x[i : i + 1, :n], 0.3).anchor)
    assert kept(x, 1.0, length).is_identity


@pytest.mark.parametrize("rule", ["max", "sum"])
@pytest.mark.parametrize("seed", range(8))
def test_rounding_does_not_break_ties(rule: str, seed: int) -> None:
    """Every direction three times over, at lengths that round differently: the first of equals is chosen first."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(1, 21, 203, generator=g)
    x = torch.cat([base, base * 3, base * 0.7], 1)
    mates = torch.randn(5, 97, 203, generator=g)
    mates[2, :63] = x[0]
    length, keep = torch.tensor([97, 97, 63, 97, 97]), torch.tensor([50, 40, 40, 9, 1])
    for first in (None, torch.tensor([3, 3, 3, 3, 3])):
        start = None if first is None else first[:1]
        alone = greedy_diverse(x, length[2:3], keep[2:3], rule=rule, first=start)[0].tolist()
        together = greedy_diverse(mates, length, keep, rule=rule, first=first)[2, :40].tolist()
        assert alone == together
        assert all(p < 21 or p - 21 in alone[:at] for at, p in enumerate(alone))


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_every_way_of_computing_picks_the_same(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(4)
    x, length, keep = torch.randn(3, 60, 16, generator=g), torch.tensor([60, 41, 0]), torch.tensor([20, 7, 0])
    first = torch.tensor([5, 6, 0])
    expected = [greedy_diverse(x, length, keep, rule=rule, first=f) for f in (None, first)]
    for limit, row_cost in ((2**28, 0), (100, 0), (60 * 60, 100), (100, 100)):
        monkeypatch.setattr(diverse, "_MATRIX_LIMIT", limit)
        monkeypatch.setattr(diverse, "_BLOCK", limit)
        monkeypatch.setattr(diverse, "_ROW_COST", row_cost)
        got = [greedy_diverse(x, length, keep, rule=rule, first=f) for f in (None, first)]
        assert all(a.equal(b) for a, b in zip(expected, got, strict=True))


def test_ten_times_faster_than_the_plain_double_loop() -> None:
    """The plain loop over steps and tokens, one tensor product per pair; both on the same 256 tokens."""
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))

    def plain() -> list[int]:
        u = x / x.norm(dim=1, keepdim=True)
        nearest = [max(float(u[i] @ u[j]) for j in range(256) if j != i) for i in range(256)]
        chosen = [min(range(256), key=nearest.__getitem__)]
        closest = [-1.0] * 256
        for _ in range(31):
            closest = [max(c, float(u[chosen[-1]] @ u[j])) for j, c in enumerate(closest)]
            chosen.append(min((j for j in range(256) if j not in chosen), key=closest.__getitem__))
        return chosen

    started = time.perf_counter()
    expected = plain()
    slow = time.perf_counter() - started
    fast = math.inf
    for _ in range(3):
        started = time.perf_counter()
        got = picks_of(x[None], 32)
        fast = min(fast, time.perf_counter() - started)
    assert got == expected
    assert slow / fast >= 10
