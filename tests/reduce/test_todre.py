"""ToDRE: the two rules of stage 1 and the all-or-nothing of stage 2."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.reduce.explicit import AFTER, BEFORE, PADDING, VISUAL, directions, explicit, sequence_view
from tokenry.reduce.shared.diverse import greedy_diverse
from tokenry.reduce.todre import ToDRE
from tokenry.tokens import Depth, Needs, Stage, TokenryError, TokenView

DEPTH = Depth(encoder=4, decoder=32)


def stage_one(x: torch.Tensor, row: list[float], **parts) -> TokenView:
    rows = torch.tensor(row).expand(len(x), 2, -1)
    return TokenView.of(x, cls_rows={3: rows}, depth=DEPTH, **parts)


@pytest.mark.parametrize(("rule", "kept"), [("maxsum", [0, 2, 3]), ("kcenter", [0, 1, 2])])
def test_the_two_rules_choose_different_sets(rule: str, kept: list[int]) -> None:
    view = stage_one(directions(0, 90, 175, 185), [0.4, 0.1, 0.2, 0.3])
    assert ToDRE(budget=3, rule=rule).apply(view).anchor.tolist() == [kept]


@pytest.mark.parametrize("rule", ["maxsum", "kcenter"])
def test_stage_one_equals_plain_loops(rule: str) -> None:
    x = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0))
    row = torch.rand(30, generator=torch.Generator().manual_seed(1)).tolist()
    anchor = ToDRE(budget=9, rule=rule).apply(stage_one(x, row)).anchor
    join = sum if rule == "maxsum" else max
    for i in range(2):
        u = (x[i].double() / x[i].double().norm(dim=1, keepdim=True)).tolist()
        s = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in u] for p in u]
        chosen = [max(range(30), key=row.__getitem__)]
        while len(chosen) < 9:
            rest = [j for j in range(30) if j not in chosen]
            chosen.append(min(rest, key=lambda j: join(s[c][j] for c in chosen)))
        assert anchor[i].tolist() == sorted(chosen)


@pytest.mark.parametrize("rule", ["maxsum", "kcenter"])
def test_hundreds_of_steps_equal_float64(rule: str) -> None:
    """Sums of similarities grow, their differences do not: a tolerance that grew with the steps would decide."""
    n, k = 1500, 500
    x = torch.randn(1, n, 64, generator=torch.Generator().manual_seed(2))
    unit = x[0].double() / x[0].double().norm(dim=1, keepdim=True)
    picks, likeness = [0], unit @ unit[0]
    while len(picks) < k:
        picks.append(int(likeness.index_fill(0, torch.tensor(picks), torch.inf).argmin()))
        row = unit @ unit[picks[-1]]
        likeness = likeness + row if rule == "maxsum" else likeness.maximum(row)
    row = [1.0] + [0.0] * (n - 1)
    assert ToDRE(budget=k, rule=rule).apply(stage_one(x, row)).anchor[0].tolist() == sorted(picks)


def test_kcenter_is_max_min_distance() -> None:
    """Its steps are those of farthest-point sampling, whose radius is at most twice the best."""
    for seed in range(10):
        x = torch.randn(1, 10, 3, generator=torch.Generator().manual_seed(seed))
        picks = greedy_diverse(x, torch.tensor([10]), torch.tensor([3]), rule="max", first=torch.tensor([0]))[
            0
        ]
        unit = x[0].double() / x[0].double().norm(dim=1, keepdim=True)
        angle = (unit @ unit.T).clamp(-1, 1).acos()
        for step in range(1, 3):
            assert angle[picks[:step]].amin(0).argmax() == picks[step]
        radius = angle[picks].amin(0).max()
        best = min(angle[list(c)].amin(0).max() for c in itertools.combinations(range(10), 3))
        assert radius <= 2 * best + 1e-6


def test_the_pivot_is_in_the_thumbnail_and_anywhere_in_a_video() -> None:
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    tile = torch.tensor([[0, 0, 0, 1, 1, -1]])
    row = [0.1, 0.3, 0.2, 0.9, 0.1, 0.0]
    method = ToDRE()
    assert method.start(stage_one(x, row)).tolist() == [3]
    assert method.start(stage_one(x, row, tile=tile)).tolist() == [1]
    assert method.start(stage_one(x, row, tile=tile, grid=torch.tensor([[2, 1, 3]]))).tolist() == [3]
    assert method.start(stage_one(x, row, tile=tile.clamp(min=1))).tolist() == [3]


def test_a_random_pivot_depends_on_the_picture_alone() -> None:
    x = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    method = ToDRE(pivot="random", budget=5)
    assert method.needs(0, Depth(encoder=0, decoder=4)) == Needs()
    key = torch.tensor([11, 12])
    both = method.apply(TokenView.of(x, key=key))
    assert both.item(1).anchor.equal(method.apply(TokenView.of(x[1:], key=key[1:])).anchor)
    starts = {int(ToDRE(pivot="random", seed=s).start(TokenView.of(x[:1]))) for s in range(10)}
    assert len(starts) > 3


def test_cuts() -> None:
    assert ToDRE().cuts(DEPTH) == (0, 29)  # after layer 28 of 32
    assert ToDRE().cuts(Depth(encoder=4, decoder=12)) == (0,)
    assert ToDRE(check=0.5).cuts(Depth(encoder=4, decoder=4)) == (0, 3)
    assert ToDRE(check=-3).cuts(DEPTH) == (0, 30)
    assert (
        ToDRE(check=None).cuts(DEPTH) == ToDRE(tau=0.0).cuts(DEPTH) == ToDRE(budget=1.0).cuts(DEPTH) == (0,)
    )
    assert ToDRE().needs(0, DEPTH) == Needs(cls_layers=(3,))
    assert ToDRE().needs(29, DEPTH) == Needs(attention="previous")
    assert ToDRE.stage is Stage.LAYER


def stage_two(columns: list[list[int]], seed: int = 0, causal: bool = True, toward: float = 0.0) -> TokenView:
    """Random attention; `toward` is added to the logits of visual columns."""
    kinds = torch.tensor(columns)
    t = kinds.shape[1]
    logits = torch.randn(len(kinds), 2, t, t, generator=torch.Generator().manual_seed(seed))
    logits = logits + toward * (kinds == VISUAL)[:, None, None, :]
    return sequence_view(columns, logits, layer=29, depth=32, causal=causal)


ROW = [BEFORE] * 2 + [VISUAL] * 3 + [AFTER] * 4


def test_masses_are_the_means_of_explicit_sums() -> None:
    view = stage_two([ROW], causal=False)
    a = explicit(view).probabilities().mean(1)[0]
    visual, text = [2, 3, 4], [5, 6, 7, 8]
    to_picture = sum(float(a[i, j]) for i in text for j in visual) / len(text)
    to_text = sum(float(a[i, j]) for i in visual for j in text) / len(visual)
    high, low = max(to_picture, to_text), min(to_picture, to_text)
    assert ToDRE(tau=high + 1e-5).faded(view).tolist() == [True]
    assert ToDRE(tau=high - 1e-5).faded(view).tolist() == [False]  # both must be below
    assert low < high - 1e-5


def test_a_causal_picture_gets_nothing_from_the_text_after_it() -> None:
    view = stage_two([ROW])
    a = explicit(view).probabilities().mean(1)[0]
    to_picture = float(a[5:, 2:5].sum() / 4)
    assert ToDRE(tau=to_picture + 1e-5).faded(view).tolist() == [True]
    assert ToDRE(tau=to_picture - 1e-5).faded(view).tolist() == [False]


def test_all_or_nothing_per_sequence() -> None:
    view = stage_two([ROW, [PADDING] * 3 + [BEFORE, VISUAL, VISUAL, AFTER, AFTER, AFTER]])
    gone = ToDRE(tau=1.0).apply(view)
    assert gone.count.tolist() == [0, 0]
    assert not gone.kept.any()
    assert ToDRE(tau=1e-6).apply(view).is_identity

    far, near = stage_two([ROW], toward=-9.0), stage_two([ROW], toward=9.0)
    logits = torch.cat([explicit(far).logits, explicit(near).logits])
    mixed = sequence_view([ROW, ROW], logits, layer=29, depth=32)
    reduction = ToDRE().apply(mixed)
    assert reduction.count.tolist() == [0, 3]
    assert reduction.item(1).is_identity


def test_padding_does_not_change_the_decision() -> None:
    short = stage_two([ROW])
    logits = torch.zeros(1, 2, 14, 14)
    logits[..., 5:, 5:] = explicit(short).logits
    padded = sequence_view([[PADDING] * 5 + ROW], logits, layer=29, depth=32)
    for tau in (0.1, 0.2, 0.3, 0.4, 0.5):
        assert ToDRE(tau=tau).faded(short).equal(ToDRE(tau=tau).faded(padded))


def test_without_text_after_the_picture_nothing_is_dropped() -> None:
    assert ToDRE(tau=1.0).apply(stage_two([[BEFORE, VISUAL, VISUAL]])).is_identity


@pytest.mark.parametrize("settings", [{"rule": "minmax"}, {"pivot": "mean"}])
def test_refuses_unknown_settings(settings: dict[str, str]) -> None:
    with pytest.raises(TokenryError, match=r"minmax|mean"):
        ToDRE(**settings)
