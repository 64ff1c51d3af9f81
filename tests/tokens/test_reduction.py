"""Reductions by example: numbers that can be checked by hand, and everything that is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tokenry.tokens import (
    DenseReduction,
    Reduction,
    ReductionError,
    TokenryError,
    gather_rows,
    prefix_mask,
    top_mask,
)


def t(*values: Any) -> Tensor:
    """One number per item, or one list per item."""
    return torch.tensor(values)


def column(*values: float) -> Tensor:
    """One item of tokens with one feature each [1 n 1]."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_select_keeps_the_order_given() -> None:
    reduction = Reduction.select(t([3, 0, 2], [1, -1, -1]), t(4, 2))
    assert reduction.group.tolist() == [[1, -1, 2, 0], [-1, 0, -1, -1]]
    assert reduction.weight.tolist() == [[1, 0, 1, 1], [0, 1, 0, 0]]
    assert reduction.count.tolist() == [3, 1]
    assert reduction.anchor.tolist() == [[3, 0, 2], [1, -1, -1]]
    assert reduction.length.tolist() == [4, 2]
    x = torch.arange(8.0).reshape(2, 4, 1)
    assert reduction.apply(x)[..., 0].tolist() == [[3, 0, 2], [5, 0, 0]]
    assert reduction.expand(reduction.apply(x), fill=-1)[..., 0].tolist() == [[0, -1, 2, 3], [-1, 5, -1, -1]]
    assert reduction.mask.tolist() == [[True, True, True], [True, False, False]]
    assert reduction.ratio.tolist() == [0.75, 0.5]
    assert reduction.sizes.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_select_cuts_columns_that_no_item_uses_and_pads_sources() -> None:
    reduction = Reduction.select(t([1, -1, -1]), 2, width=5)
    assert reduction.anchor.tolist() == [[1]]
    assert reduction.group.tolist() == [[-1, 0, -1, -1, -1]]


def test_from_mask_is_raster_order() -> None:
    reduction = Reduction.from_mask(t([False, True, True, False], [True, False, False, False]), t(4, 1))
    assert reduction.anchor.tolist() == [[1, 2], [0, -1]]
    assert reduction.group.tolist() == [[-1, 0, 1, -1], [0, -1, -1, -1]]


def test_merge_is_the_mean_and_sits_at_its_first_source() -> None:
    reduction = Reduction.merge(t([1, 0, -1, 1, 0, 1]))
    assert reduction.apply(column(1, 2, 100, 3, 4, 8))[0, :, 0].tolist() == [3, 4]
    assert reduction.anchor.tolist() == [[1, 0]]
    assert reduction.sizes.tolist() == [[2, 3]]
    assert reduction.expand(column(3, 4), fill=9)[0, :, 0].tolist() == [4, 3, 9, 4, 3, 4]
    assert torch.allclose(reduction.to_dense()[0, 1], t(1 / 3, 0, 0, 1 / 3, 0, 1 / 3))
    assert not reduction.is_selection


def test_merge_takes_weights_and_anchors() -> None:
    reduction = Reduction.merge(t([0, 0, 1]), weight=t([0.25, 0.75, 1.0]), anchor=t([1, 2]))
    assert reduction.apply(column(4, 8, 5))[0, :, 0].tolist() == [7, 5]
    assert reduction.anchor.tolist() == [[1, 2]]


def test_a_merge_of_single_tokens_is_a_selection_only_with_weight_one() -> None:
    assert Reduction.merge(t([1, 0])).is_selection
    scaled = Reduction.merge(t([0, 1]), weight=t([1.0, 0.5]))
    assert not scaled.is_selection
    assert scaled.apply(column(2, 2))[0, :, 0].tolist() == [2, 1]


def test_composing_multiplies_the_weights() -> None:
    halves = Reduction.merge(t([0, 0, 1, 1, 2, 2]))
    thirds = Reduction.merge(t([0, 0, -1]))
    both = halves.compose(thirds)
    assert both.weight.tolist() == [[0.25, 0.25, 0.25, 0.25, 0, 0]]
    assert both.group.tolist() == [[0, 0, 0, 0, -1, -1]]
    assert both.anchor.tolist() == [[0]]
    assert both.apply(column(1, 3, 5, 7, 50, 70))[0, :, 0].tolist() == [4]


def test_the_identity_is_in_place_and_nothing_else_is() -> None:
    assert Reduction.identity(t(3, 0, 1)).is_identity
    assert Reduction.identity(t(3), width=7).is_identity
    assert Reduction.select(t([0, 1, 2]), 3).is_identity
    assert not Reduction.select(t([1, 0, 2]), 3).is_identity
    assert not Reduction.select(t([0, 1]), 3).is_identity
    assert not Reduction.merge(t([0, 0, 1])).is_identity


def test_sums_are_float32() -> None:
    """4,096 half-precision tokens: added up in their own type, the mean of ones would stall far below one."""
    for dtype in (torch.float16, torch.bfloat16):
        x = torch.ones(1, 4096, 1, dtype=dtype)
        reduction = Reduction.merge(torch.zeros(1, 4096, dtype=torch.long))
        assert reduction.apply(x).tolist() == [[[1.0]]]
        soft = DenseReduction(reduction.to_dense(), reduction.count, reduction.anchor, reduction.length)
        assert soft.apply(x).tolist() == [[[1.0]]]
        big = torch.full((1, 4, 1), 30000.0, dtype=torch.float16)  # their sum is beyond half precision
        assert Reduction.merge(t([0, 0, 0, 0])).apply(big).tolist() == [[[30000.0]]]


def test_a_selection_moves_bits() -> None:
    """No arithmetic touches a kept token: what float32 cannot hold survives, and so does infinity."""
    x = torch.tensor([[[2.0**60 + 2**10]], [[torch.inf]]], dtype=torch.float64)
    assert torch.equal(Reduction.identity(t(1, 1)).apply(x), x)


def test_padding_of_the_tokens_never_shows() -> None:
    x = column(1, 2, torch.nan)
    assert Reduction.merge(t([0, 0, -1]), length=t(2)).apply(x).tolist() == [[[1.5]]]
    assert Reduction.merge(t([0, 0, -1])).apply(x).tolist() == [[[1.5]]]
    assert Reduction.from_mask(t([True, False, False])).apply(x).tolist() == [[[1.0]]]


# --- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reduction",
    [
        Reduction.select(torch.empty(2, 0, dtype=torch.long), 3),
        Reduction.select(t([-1], [-1]), 3),
        Reduction.from_mask(torch.zeros(2, 3, dtype=torch.bool)),
        Reduction.top(torch.zeros(2, 3), t(0, 0)),
        Reduction.merge(torch.full((2, 3), -1)),
    ],
    ids=["select", "padding", "mask", "top", "merge"],
)
def test_everything_dropped(reduction: Reduction) -> None:
    assert reduction.count.tolist() == [0, 0]
    assert reduction.width == 0
    assert reduction.apply(torch.ones(2, 3, 4)).shape == (2, 0, 4)
    assert reduction.expand(torch.ones(2, 0, 4), fill=2).tolist() == torch.full((2, 3, 4), 2.0).tolist()
    assert reduction.ratio.tolist() == [0, 0]
    assert reduction.sizes.shape == reduction.mask.shape == (2, 0)
    assert reduction.to_dense().shape == (2, 0, 3)
    assert not reduction.is_identity
    assert reduction.item(1).width == 0
    after = reduction.compose(Reduction.identity(t(0, 0)))
    assert after.count.tolist() == [0, 0]
    assert not after.kept.any()


@pytest.mark.parametrize(
    "reduction",
    [
        Reduction.identity(t(0, 0)),
        Reduction.select(torch.empty(2, 0, dtype=torch.long), 0),
        Reduction.top(torch.zeros(2, 0), t(0, 0)),
        Reduction.merge(torch.empty(2, 0, dtype=torch.long)),
    ],
    ids=["identity", "select", "top", "merge"],
)
def test_items_without_a_token(reduction: Reduction) -> None:
    assert reduction.is_identity
    assert reduction.ratio.tolist() == [1, 1]
    assert reduction.apply(torch.ones(2, 0, 4)).shape == (2, 0, 4)
    assert reduction.expand(torch.ones(2, 0, 4)).shape == (2, 0, 4)
    assert reduction.to_dense().shape == (2, 0, 0)


def test_a_batch_without_an_item() -> None:
    none = torch.empty(0, dtype=torch.long)
    for reduction in (
        Reduction.identity(none),
        Reduction.select(none.reshape(0, 2), 3),
        Reduction.top(torch.zeros(0, 3), none),
        Reduction.merge(none.reshape(0, 3)),
    ):
        assert reduction.apply(torch.ones(*reduction.group.shape, 4)).shape == (0, 0, 4)
        assert reduction.count.shape == (0,)


def test_one_item_may_lose_everything_while_another_keeps_all() -> None:
    reduction = Reduction.from_mask(t([False, False], [True, True]))
    assert reduction.apply(torch.ones(2, 2, 1))[..., 0].tolist() == [[0, 0], [1, 1]]
    assert reduction.item(0).apply(torch.ones(1, 2, 1)).shape == (1, 0, 1)
    assert reduction.item(-1).is_identity


# --- top ------------------------------------------------------------------------------------------------------------


def test_top_breaks_ties_by_position() -> None:
    scores = t([1.0, 2.0, 2.0, 1.0, 2.0])
    assert Reduction.top(scores, t(2)).anchor.tolist() == [[1, 2]]
    assert Reduction.top(scores, t(4)).anchor.tolist() == [[0, 1, 2, 4]]
    assert Reduction.top(torch.zeros(1, 2000), t(1000)).anchor.tolist() == [list(range(1000))]


def test_top_prefers_a_real_token_of_minus_infinity_to_padding() -> None:
    scores = t([-torch.inf, -torch.inf, 5.0])
    assert Reduction.top(scores, t(2), t(2)).anchor.tolist() == [[0, 1]]
    with_nan = t([-torch.inf, -torch.inf, torch.nan])
    assert Reduction.top(with_nan, t(1), t(2)).anchor.tolist() == [[0]]


def test_top_of_bfloat16_scores() -> None:
    scores = t([1.0, 1.0078125, 1.0]).bfloat16()
    assert Reduction.top(scores, t(1)).anchor.tolist() == [[1]]


def test_top_zero_and_minus_zero_are_a_tie() -> None:
    assert Reduction.top(t([-0.0, 0.0]), t(1)).anchor.tolist() == [[0]]


# --- refused --------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "index given twice": (lambda: Reduction.select(t([2, 1, 2]), 4), r"twice: \[\[2, 1, 2\]\]"),
    "index = n": (lambda: Reduction.select(t([0, 4]), 4), r"\[\[0, 4\]\] for n = \[4\]"),
    "index beyond a short item": (lambda: Reduction.select(t([0], [1]), t(2, 1)), r"\[\[0\], \[1\]\]"),
    "index below -1": (lambda: Reduction.select(t([0, -2]), 4), r"\[\[0, -2\]\]"),
    "padding before an index": (lambda: Reduction.select(t([-1, 0]), 4), r"\[\[-1, 0\]\]"),
    "lengths of another batch": (lambda: Reduction.select(t([0]), t(4, 4)), r"\[4, 4\] for 1 items"),
    "longer than the width": (lambda: Reduction.select(t([0]), t(4), width=3), r"0\.\.3 .* got \[4\]"),
    "negative length": (lambda: Reduction.from_mask(t([False]), t(-1)), r"got \[-1\]"),
    "identity beyond its width": (lambda: Reduction.identity(t(3, 2), width=2), r"0\.\.2 .* got \[3, 2\]"),
    "mask on padding": (
        lambda: Reduction.from_mask(t([True, True]), t(1)),
        r"\[\[0, 1\]\] for lengths \[1\]",
    ),
    "mask of another batch": (lambda: Reduction.from_mask(t([True]), t(1, 1)), r"\[1, 1\] for 1 items"),
    "score NaN": (lambda: Reduction.top(t([0.0], [torch.nan]), t(1, 1)), r"items \[1\] are scored NaN"),
    "keep more than there are": (lambda: Reduction.top(t([0.0, 1.0]), t(3)), r"keep \[3\] tokens of \[2\]"),
    "keep more than the item has": (
        lambda: Reduction.top(t([0.0, 1.0]), t(2), t(1)),
        r"keep \[2\] tokens of \[1\]",
    ),
    "keep a negative number": (lambda: Reduction.top(t([0.0]), t(-1)), r"keep \[-1\]"),
    "keep of another batch": (lambda: Reduction.top(t([0.0], [1.0]), t(1)), r"keep \[1\] tokens of \[1, 1\]"),
    "empty group": (lambda: Reduction.merge(t([0, 2])), r"without a source.*\[\[1\.0, 0\.0, 1\.0\]\]"),
    "group on padding": (lambda: Reduction.merge(t([0, 0]), length=t(1)), r"\[\[0, 0\]\] for items of \[1\]"),
    "group below -1": (lambda: Reduction.merge(t([0, -2])), r"\[\[0, -2\]\]"),
    "anchor of another group": (lambda: Reduction.merge(t([0, 1]), anchor=t([1, 0])), r"\[\[1, 0\]\]"),
    "anchor dropped": (lambda: Reduction.merge(t([0, -1]), anchor=t([1])), r"got \[\[1\]\]"),
    "anchor out of range": (lambda: Reduction.merge(t([0, 0]), anchor=t([2])), r"got \[\[2\]\]"),
    "anchor missing": (lambda: Reduction.merge(t([0, 0]), anchor=t([-1])), r"got \[\[-1\]\]"),
    "too many anchors": (lambda: Reduction.merge(t([0, 0]), anchor=t([0, 1])), r"got \[\[0, 1\]\]"),
    "anchor on padding": (
        lambda: Reduction.merge(t([0, 1], [0, 0]), anchor=t([0, 1], [0, 1])),
        r"padding: -1.*\[\[0, 1\], \[0, 1\]\]",
    ),
    "weight NaN": (lambda: Reduction.merge(t([0, 0]), weight=t([1.0, torch.nan])), "finite.*nan"),
    "weights of another shape": (lambda: Reduction.merge(t([0, 0]), weight=t([1.0])), r"\(1, 2\)"),
    "tokens of another batch": (lambda: Reduction.identity(t(2)).apply(torch.ones(2, 2, 1)), r"\(2, 2, 1\)"),
    "too few tokens": (lambda: Reduction.identity(t(2)).apply(torch.ones(1, 1, 1)), r"\(1, 1, 1\)"),
    "outputs of another reduction": (
        lambda: Reduction.identity(t(2)).expand(torch.ones(1, 3, 1)),
        r"1, 3, 1",
    ),
    "composed with another width": (
        lambda: Reduction.identity(t(3)).compose(Reduction.identity(t(2))),
        r"leaves \[3\].*expects \[2\]",
    ),
    "composed with other lengths": (
        lambda: Reduction.identity(t(3, 2)).compose(Reduction.identity(t(2, 3))),
        r"leaves \[3, 2\].*expects \[2, 3\]",
    ),
}
"""What is wrong: (the call, what its message says)."""

for _case, _wrong in {
    "count of another batch": dict(count=t(1, 1)),
    "length of another batch": dict(length=t(1, 1)),
    "count and length of another batch": dict(count=t(1, 1), length=t(1, 1)),
    "anchor of another batch": dict(anchor=t([0], [0])),
    "weight of another width": dict(weight=t([1.0, 0.0])),
}.items():
    _parts = dict(group=t([0]), weight=t([1.0]), count=t(1), anchor=t([0]), length=t(1)) | _wrong
    REFUSED[_case] = (lambda parts=_parts: Reduction(**parts), "parts disagree")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ReductionError, match=message) as error:
        call()
    assert isinstance(error.value, TokenryError)
    assert isinstance(error.value, ValueError)


# --- helpers --------------------------------------------------------------------------------------------------------


def test_prefix_mask() -> None:
    assert prefix_mask(t(2, 0), 3).tolist() == [[True, True, False], [False, False, False]]
    assert prefix_mask(t(2), 0).shape == (1, 0)


def test_best_takes_members_only_and_no_more_than_there_are() -> None:
    scores = t([9.0, -torch.inf, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0])
    member = t([False, True, True, True], [True, True, False, False])
    assert top_mask(scores, member, t(1, 1)).tolist() == [
        [False, False, True, False],
        [False, True, False, False],
    ]
    assert top_mask(scores, member, t(3, 9)).tolist() == member.tolist()
    assert not top_mask(scores, member, t(0, 0)).any()


def test_gather_rows_fills_what_is_missing() -> None:
    x = column(5, 6, 7)
    assert gather_rows(x, t([2, -1, 0]), fill=-3)[0, :, 0].tolist() == [7, -3, 5]
    assert gather_rows(torch.ones(1, 0, 2), t([-1, -1]), fill=4).tolist() == [[[4, 4], [4, 4]]]


def test_to_moves_every_part() -> None:
    reduction = Reduction.merge(t([0, 0, 1])).to("meta")
    parts = (reduction.group, reduction.weight, reduction.count, reduction.anchor, reduction.length)
    assert {part.device.type for part in parts} == {"meta"}


def test_carry_adds_up_what_sources_stand_for() -> None:
    reduction = Reduction.merge(torch.tensor([[0, 1, 0, -1]]))
    assert reduction.carry(torch.tensor([[1.0, 4.0, 2.0, 8.0]])).tolist() == [[3.0, 4.0]]
    assert reduction.carry(torch.ones(1, 4)).tolist() == reduction.sizes.tolist()


def test_among_tokens_that_stay() -> None:
    """Tokens 1 and 4 stay, 5 is nobody's; of 0, 2, 3 the last is dropped and the others merge onto the second."""
    some = Reduction.merge(torch.tensor([[0, 0, -1]]), anchor=torch.tensor([[1]]))
    kept = torch.tensor([[False, True, False, False, True, False]])
    sources = torch.tensor([[True, False, True, True, False, False]])
    whole = some.among(sources, kept, torch.tensor([6]))
    assert whole.anchor.tolist() == [[1, 2, 4]]
    assert whole.group.tolist() == [[1, 0, 1, -1, 2, -1]]
    assert whole.weight.tolist() == [[0.5, 1, 0.5, 0, 1, 0]]
    with pytest.raises(ReductionError, match="does not fit among"):
        some.among(sources & ~kept.roll(-1, 1), kept, torch.tensor([6]))


def test_a_gate_changes_no_value_and_gets_the_gradient_of_a_weight() -> None:
    x = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    gate = torch.tensor([[0.1, 0.9, 0.4, 0.7]], requires_grad=True)
    plain = Reduction.from_mask(torch.tensor([[True, False, True, True]]))
    gated = plain.gated(gate)
    assert not gated.is_selection
    assert torch.equal(gated.apply(x), plain.apply(x))
    gated.apply(x).square().sum().backward()
    expected = 2 * x.square().sum(2).masked_fill(~plain.kept, 0)
    assert torch.allclose(gate.grad, expected)
