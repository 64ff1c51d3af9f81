"""AIM: merging to the budget, the pruning schedule, and PageRank on explicit attention."""

from __future__ import annotations

import pytest
import torch

from tests.reduce.explicit import AFTER, BEFORE, PADDING, VISUAL, sequence_view
from tokenry.reduce.aim import AIM
from tokenry.reduce.shared.matching import bipartite_match
from tokenry.tokens import Depth, Needs, Positions, TokenryError, TokenView

DEPTH = Depth(encoder=24, decoder=28)


def features(items: int, n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(items, n, d, generator=torch.Generator().manual_seed(seed))


# --- merging ---------------------------------------------------------------------------------------------------------


def halve(x: list[torch.Tensor], r: int) -> list[torch.Tensor]:
    """One round of the paper, plainly: r even tokens into their most similar odd one, unweighted mean."""
    a, b = list(range(0, len(x), 2)), list(range(1, len(x), 2))
    cos = torch.nn.functional.cosine_similarity
    best = {i: max(b, key=lambda j, i=i: float(cos(x[i], x[j], 0))) for i in a}
    order = sorted(a, key=lambda i: -float(cos(x[i], x[best[i]], 0)))
    alone = [x[i] for i in order[r:]]
    return alone + [torch.stack([x[j], *(x[i] for i in order[:r] if best[i] == j)]).mean(0) for j in b]


@pytest.mark.parametrize(("budget", "rounds"), [(0.5, [98]), (0.25, [98, 49]), (0.125, [98, 49, 24])])
def test_a_frame_is_halved_again_and_again(budget: float, rounds: list[int]) -> None:
    x = features(1, 196)
    reduction = AIM(budget=budget).apply(TokenView.of(x, depth=DEPTH))
    expected = list(x[0])
    for r in rounds:
        expected = halve(expected, r)
    got, want = reduction.apply(x)[0], torch.stack(expected)
    assert len(got) == len(want) == 196 - sum(rounds)
    # The code's order is another one once a token stays alone; ours is raster.
    pairs = torch.cdist(got.double(), want.double())
    assert pairs.amin(1).max() < 1e-5
    assert pairs.amin(0).max() < 1e-5
    if len(rounds) < 3:
        assert torch.allclose(got, want, atol=1e-6)
    assert reduction.anchor[0].diff().gt(0).all()


def test_rounds_are_shares_of_the_first_count() -> None:
    # 23 -> 12 -> 7 -> 6: the second round merges 23 // 4 = 5, not half of 12.
    x = features(1, 23)
    got = AIM(budget=6).apply(TokenView.of(x, depth=DEPTH)).apply(x)[0]
    want = torch.stack(halve(halve(halve(list(x[0]), 11), 5), 1))
    assert torch.cdist(got.double(), want.double()).amin(1).max() < 1e-5


def test_a_mean_of_means_is_not_weighted() -> None:
    # Tokens 0 and 2 join 1; then their mean joins 3, counting as one of two, not as three of four.
    x = torch.tensor([[[1.0, 0], [1, 0.01], [1, 0], [0.6, 0.8]]])
    reduction = AIM(budget=1).apply(TokenView.of(x, depth=DEPTH))
    assert reduction.weight[0].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 23])
def test_every_count_can_be_reached_exactly(n: int) -> None:
    view = TokenView.of(features(1, n), depth=DEPTH)
    for k in range(1, n + 1):
        reduction = AIM(budget=k).apply(view)
        assert reduction.count.tolist() == [k]
        assert reduction.kept.all()
        assert torch.allclose(reduction.to_dense().sum(2), torch.ones(1, k))
    assert AIM(budget=n).apply(view).is_identity


def test_frames_merge_separately() -> None:
    x, tile = features(1, 48), torch.arange(4).repeat_interleave(12)[None]
    together = AIM(budget=0.25).apply(TokenView.of(x, tile=tile, depth=DEPTH))
    assert tile[0, together.anchor[0]].bincount().tolist() == [3, 3, 3, 3]
    for f in range(4):
        alone = AIM(budget=3).apply(TokenView.of(x[:, 12 * f : 12 * f + 12], depth=DEPTH))
        assert torch.allclose(
            together.apply(x)[0, 3 * f : 3 * f + 3], alone.apply(x[:, 12 * f : 12 * f + 12])[0]
        )


@pytest.mark.parametrize("k", [1, 3, 4, 5, 10, 17, 29, 30])
def test_uneven_frames_newlines_and_small_budgets_add_up(k: int) -> None:
    tile = torch.tensor([[0] * 12 + [1] * 7 + [-1] * 1 + [2] * 10])
    reduction = AIM(budget=k).apply(TokenView.of(features(1, 30), tile=tile, depth=DEPTH))
    assert reduction.count.tolist() == [k]
    if k >= 4:  # at least one token per part, and no part mixes with another
        assert (tile[0, reduction.anchor[0]] + 1).bincount().min() >= 1
        assert tile[0].equal(tile[0, reduction.anchor[0]][reduction.group[0]])


def test_items_do_not_see_each_other() -> None:
    x, length = features(3, 40), torch.tensor([40, 25, 3])
    tile = torch.arange(2).repeat_interleave(20).expand(3, 40)
    tile = tile.masked_fill(torch.arange(40) >= length[:, None], -1)
    together = AIM(budget=0.3).apply(TokenView.of(x, length=length, tile=tile, depth=DEPTH))
    assert together.count.tolist() == [12, 8, 1]
    for i, n in enumerate(length.tolist()):
        view = TokenView.of(x[i : i + 1, :n], tile=tile[i : i + 1, :n], depth=DEPTH)
        alone = AIM(budget=0.3).apply(view)
        assert together.item(i).group.equal(alone.group)
        assert torch.allclose(together.item(i).weight, alone.weight)


def test_no_items() -> None:
    assert AIM().apply(TokenView.of(torch.zeros(0, 4, 2), depth=DEPTH)).count.tolist() == []


# --- pruning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "settings", "mean"),
    [(28, {}, 0.625), (28, {"start": 14, "end": 21}, 0.625), (32, {"start": 13, "end": 20}, 33 / 64)],
)
def test_the_papers_schedules(depth: int, settings: dict[str, int], mean: float) -> None:
    method = AIM(**settings)
    shares = [left / steps for left, steps in (method.retention(i, Depth(1, depth)) for i in range(depth))]
    first = settings.get("start", 14)
    assert shares == [max(0, 1 - (i - first + 1) * 0.125) if i >= first else 1 for i in range(depth)]
    assert sum(shares) / depth == mean


def test_cuts_and_needs() -> None:
    assert AIM().cuts(DEPTH) == (0, *range(15, 23))
    assert AIM().needs(0, DEPTH) == Needs()
    assert AIM().needs(15, DEPTH) == AIM().needs(21, DEPTH) == Needs(attention="previous")
    assert AIM().needs(22, DEPTH) == Needs()  # everything leaves: nothing to rank
    assert AIM().cuts(Depth(0, 4)) == (0, 3)
    assert AIM(start=2, end=3).cuts(Depth(0, 4)) == (0, 3)  # the last cut would lie behind the last layer
    assert AIM(start=0, end=0).cuts(Depth(0, 4)) == (0, 1)
    assert AIM(start=None).cuts(DEPTH) == AIM(budget=1.0).cuts(DEPTH) == (0,)
    assert AIM(positions="paper").position_rule is Positions.KEEP


def test_counts_fall_linearly_to_none() -> None:
    method, left, length = AIM(budget=0.25), [], torch.tensor([49])
    for cut in method.cuts(DEPTH)[1:]:
        view = TokenView.of(torch.zeros(1, int(length), 2), entry=torch.tensor([196]), layer=cut, depth=DEPTH)
        length = method.keep(view)
        left.append(int(length))
    assert left == [int(49 * (1 - i / 8)) for i in range(1, 9)]
    assert left[-1] == 0


def test_counts_are_exact_where_the_share_is_not() -> None:
    view = TokenView.of(torch.zeros(1, 3, 2), layer=3, depth=Depth(0, 8))
    assert AIM(budget=10, start=2, end=4).keep(view).tolist() == [2]  # 2/3 of 3, not floor(1.99...)


@pytest.mark.parametrize(
    ("iterations", "expected"),
    [(1, [0.6070, 0.3114, 0.0816]), (2, [0.8420, 0.1380, 0.0200]), (5, [0.9944, 0.0053, 0.0003])],
)
def test_pagerank_of_three_tokens(iterations: int, expected: list[float]) -> None:
    logits = torch.tensor([[[[0, 0, 0], [0.1, 0, 0], [0, 0.2, 0.1]]]])
    view = sequence_view([[VISUAL] * 3], logits, layer=1, depth=4)
    p = AIM(iterations=iterations).importance(view)
    assert torch.allclose(p, torch.tensor([expected]), atol=1e-4)
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("causal", [True, False])
def test_pagerank_equals_powers_of_the_matrix(causal: bool) -> None:
    g = torch.Generator().manual_seed(0)
    columns = [[PADDING] * 2 + [BEFORE] + [VISUAL] * 4 + [AFTER] * 2, [BEFORE] + [VISUAL] * 6 + [AFTER] * 2]
    logits = torch.randn(2, 3, 9, 9, generator=g) * 0.1
    view = sequence_view(columns, logits, layer=15, depth=28, causal=causal)
    p = AIM(iterations=4, damping=0.2).importance(view)
    for row, first in ((0, 2), (1, 0)):
        t = 9 - first
        z = logits[row, :, first:, first:].double() / 0.1
        if causal:
            z = z.masked_fill(~torch.ones(t, t, dtype=torch.bool).tril(), -torch.inf)
        # With damping a step is p <- p G: every token is left for any token with the damping's probability.
        google = 0.8 * z.softmax(-1) + 0.2 / t
        ranks = torch.full((3, 1, t), 1 / t, dtype=torch.float64) @ torch.linalg.matrix_power(google, 4)
        expected = ranks[:, 0].square().mean(0).sqrt()
        assert torch.allclose(p[row, first:].double(), expected, atol=1e-6)
        assert p[row, :first].abs().sum() == 0


def test_damping_acts_in_every_step() -> None:
    """Token 2 attends to 1, token 1 to 0 and itself, token 0 to itself; two steps by hand."""
    logits = torch.tensor([[[[0.0, 0, 0], [0, 0, 0], [-9, 0, -9]]]])
    p = AIM(iterations=2, damping=0.2).importance(sequence_view([[VISUAL] * 3], logits, layer=1, depth=4))
    p1 = [0.8 * (1 / 3 + 1 / 6) + 0.2 / 3, 0.8 * (1 / 6 + 1 / 3) + 0.2 / 3, 0.2 / 3]
    p2 = [0.8 * (p1[0] + p1[1] / 2) + 0.2 / 3, 0.8 * (p1[1] / 2 + p1[2]) + 0.2 / 3, 0.2 / 3]
    assert p[0].tolist() == pytest.approx(p2, abs=1e-6)


def test_prunes_the_least_important() -> None:
    g = torch.Generator().manual_seed(1)
    columns = [[BEFORE] + [VISUAL] * 8 + [AFTER] * 3]
    view = sequence_view(columns, torch.randn(1, 2, 12, 12, generator=g) * 0.3, layer=15, depth=28, entry=32)
    reduction = AIM(budget=0.25).apply(view)
    score = AIM().importance(view)[0, 1:9].tolist()
    assert reduction.anchor[0].tolist() == sorted(sorted(range(8), key=lambda j: -score[j])[:7])
    last = sequence_view(columns, torch.zeros(1, 2, 12, 12), layer=22, depth=28, entry=32)
    assert AIM(budget=0.25).apply(last).count.tolist() == [0]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"iterations": -1}, {"damping": 1.5}])
def test_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(TokenryError, match="temperature"):
        AIM(**settings)


def test_refuses_a_schedule_that_ends_before_it_starts() -> None:
    with pytest.raises(TokenryError, match=r"20\.\.14"):
        AIM(start=20, end=14).cuts(DEPTH)


def test_one_round_of_half_leaves_the_odd_positions() -> None:
    x = features(1, 16)
    reduction = bipartite_match(x, torch.tensor([16]), torch.tensor([8])).reduction
    assert reduction.anchor.tolist() == [list(range(1, 16, 2))]
