"""Budgets: every form, the rounding rule against exact arithmetic, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tests.laws.strategies import laws
from tokenry.tokens import Budget, BudgetError, TokenryError


def resolved(budget: Any, *n: int) -> list[int]:
    return Budget.of(budget).resolve(torch.tensor(n)).tolist()


# --- counts and shares ----------------------------------------------------------------------------------------------


def test_a_count_is_a_ceiling() -> None:
    assert resolved(64, 576, 64, 63, 1, 0) == [64, 64, 63, 1, 0]
    assert resolved(2**62, 576) == [576]
    assert resolved(10**30, 576) == [576]


def test_published_budgets() -> None:
    assert resolved(0.25, 576, 2880) == [144, 720]
    assert resolved(0.098, 576) == [56]
    assert resolved("11.1%", 576) == [64]


@pytest.mark.parametrize(
    ("share", "n", "kept"),
    [
        (0.5, 1, 1),  # exactly a half rounds up
        (0.5, 3, 2),
        (0.5, 5, 3),  # and not to even
        (0.25, 10, 3),
        (0.25, 9, 2),
        (0.001, 10, 1),  # never none
        (0.001, 0, 0),  # but of none
        (1.0, 10, 10),
        (0.999, 10, 10),
        (0.29, 50, 15),  # 14.5, though 0.29 * 50 is 14.499999999999998 in float64
        (0.7, 45, 32),  # 31.5, though 31.499999999999996
        (1 / 6, 9, 2),
        (0.1, 5, 1),
    ],
)
def test_a_share_rounds_half_up(share: float, n: int, kept: int) -> None:
    assert resolved(share, n) == [kept]


@laws
@given(st.integers(1, 1000), st.integers(1, 1000), st.lists(st.integers(0, 100_000), min_size=1, max_size=5))
@example(29, 100, [50, 100])
@example(7, 10, [45])
@example(1, 6, [9])
def test_rounding_is_that_of_exact_arithmetic(p: int, q: int, n: list[int]) -> None:
    share = Fraction(min(p, q), max(p, q))
    exact = [min(max(math.floor(share * k + Fraction(1, 2)), 1), k) for k in n]
    assert resolved(float(share), *n) == exact


@laws
@given(st.integers(1, 100), st.lists(st.integers(0, 100_000), min_size=1, max_size=5))
def test_percent_is_exact(percent: int, n: list[int]) -> None:
    exact = [min(max((percent * k + 50) // 100, 1), k) for k in n]
    assert resolved(f"{percent}%", *n) == exact


@laws
@given(st.floats(0, 1, exclude_min=True), st.integers(0, 10**6))
def test_more_share_never_keeps_less(share: float, n: int) -> None:
    (kept,) = resolved(share, n)
    (more,) = resolved(min(1.0, share * 1.1), n)
    assert min(1, n) <= kept <= more <= n


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_resolving_keeps_type(dtype: torch.dtype) -> None:
    n = torch.tensor([7, 0], dtype=dtype)
    for budget in (3, 2**40, 0.5):
        assert Budget.of(budget).resolve(n).dtype == dtype
    assert Budget.of(0.5).resolve(torch.zeros(0, dtype=dtype)).shape == (0,)


# --- ways to write one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("64", Budget(count=64)),
        (" 64 ", Budget(count=64)),
        ("+64", Budget(count=64)),
        ("25%", Budget(share=0.25)),
        (" 25 % ", Budget(share=0.25)),
        ("0.25", Budget(share=0.25)),
        ("1", Budget(count=1)),
        ("1.0", Budget(share=1.0)),
        ("100%", Budget(share=1.0)),
        ("12.5%", Budget(share=0.125)),
        ("8..50%", Budget.between(8, 0.5)),
        ("5%..50%", Budget.between(0.05, 0.5)),
        ("8..8", Budget.between(8, 8)),
        ("2:50%,8:64", Budget.of({2: 0.5, 8: 64})),
        ("0.25:50%, 0.5:25%", Budget.of({0.25: 0.5, 0.5: 0.25})),
        ("0.5:25%,0.25:50%", Budget.of({0.25: 0.5, 0.5: 0.25})),
    ],
)
def test_text(text: str, budget: Budget) -> None:
    assert Budget.of(text) == budget


@pytest.mark.parametrize(
    ("value", "text"),
    [(64, "64"), (0.25, "25%"), ("8..50%", "8..50%"), ({2: 0.5, 8: 64}, "2:50%,8:64"), (0.125, "12.5%")],
)
def test_it_prints_as_it_is_written(value: Any, text: str) -> None:
    assert str(Budget.of(value)) == text
    assert Budget.of(text) == Budget.of(value)


def test_a_float_subclass_is_a_share() -> None:
    assert Budget.of(np.float64(0.5)) == Budget.of(0.5)


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        0.0,
        -0.5,
        1.5,
        1.0000001,
        64.0,
        math.nan,
        math.inf,
        -math.inf,
        True,
        False,
        None,
        b"64",
        [],
        [[64]],
        [64, 1.5],
        ["8..9"],
        [Budget.total(8)],
        {64},
        "total:0",
        "total:half",
        "total:0.5",
        "64,,32",
        {0.5},
        pytest.param(object(), id="an object"),  # its own name differs between test processes
        1j,
        torch.tensor(3),
        np.int64(3),
        "",
        " ",
        "%",
        "many",
        "0",
        "0%",
        "-3",
        "101%",
        "nan",
        "nan%",
        "inf",
        "-inf%",
        "25%%",
        "..",
        "8..",
        "..8",
        "1..2..3",
        "8..0",
        "2:",
        ":50%",
        "2:50%,",
        "2:50%:3",
        "2:8..9",
        "x:50%",
        {},
        {-1: 0.5},
        {1.0: 0.5},
        {-0.1: 0.5},
        {math.nan: 0.5},
        {math.inf: 0.5},
        {True: 0.5},
        {"2": 0.5},
        {None: 0.5},
        {2: 0},
        {2: None},
        {2: 1.5},
        {2: {3: 0.5}},
        {2: "8..9"},
        {2: 0.5, 0.5: 0.25},
    ],
    ids=repr,
)
def test_what_means_nothing_is_refused(value: Any) -> None:
    with pytest.raises(BudgetError) as error:
        Budget.of(value)
    assert isinstance(error.value, TokenryError)
    assert len(str(error.value)) > 20


@pytest.mark.parametrize(
    ("value", "named"),
    [(0, "0 tokens"), (1.5, "1.5"), (math.nan, "nan"), ("many", "'many'"), ({64}, "set"), ({-1: 0.5}, "-1")],
)
def test_a_refusal_names_the_value(value: Any, named: str) -> None:
    with pytest.raises(BudgetError, match=named):
        Budget.of(value)


@pytest.mark.usefixtures("unchecked")
def test_the_constructor_wants_exactly_one_form() -> None:
    with pytest.raises(BudgetError, match="exactly one form, got 0"):
        Budget()
    with pytest.raises(BudgetError, match="exactly one form, got 2"):
        Budget(count=3, share=0.5)
    for wrong in (True, 0, 2.5):
        with pytest.raises(BudgetError):
            Budget(count=wrong)  # type: ignore[arg-type]
    for wrong in (True, 0.0, 1.5, math.nan):
        with pytest.raises(BudgetError):
            Budget(share=wrong)


# --- schedules ------------------------------------------------------------------------------------------------------


def test_a_schedule_is_in_layer_order() -> None:
    schedule = Budget.of({16: 0.25, 8: 0.5, 24: 10})
    assert schedule.cuts(32) == ((8, Budget.of(0.5)), (16, Budget.of(0.25)), (24, Budget.of(10)))
    assert not schedule.adaptive


@pytest.mark.parametrize(
    ("depth", "layers"),
    [(32, (8, 16)), (4, (1, 2)), (30, (8, 15)), (6, (2, 3)), (2, (1, 1))],
)
def test_shares_of_depth_become_layers(depth: int, layers: tuple[int, int]) -> None:
    schedule = Budget.of({0.25: 0.5, 0.5: 0.25})
    if len(set(layers)) < 2:
        with pytest.raises(BudgetError, match=r"layers \[1, 1\] in a decoder of 2 layers"):
            schedule.cuts(depth)
    else:
        assert tuple(layer for layer, _ in schedule.cuts(depth)) == layers


def test_shares_of_depth_round_like_shares_of_tokens() -> None:
    assert Budget.of({0.29: 0.5}).cuts(50)[0][0] == 15
    assert Budget.of({0.7: 0.5}).cuts(45)[0][0] == 32


@pytest.mark.parametrize("schedule", [{32: 0.5}, {2: 0.5, 99: 0.25}, {0.99: 0.5}])
def test_a_layer_beyond_the_decoder_is_refused(schedule: dict[float, float]) -> None:
    with pytest.raises(BudgetError, match="decoder of 32 layers"):
        Budget.of(schedule).cuts(32)


@pytest.mark.parametrize("text", ["0.5:25%,0.5:10%", "2:64,2:32", "2:64, 2:64"])
def test_two_steps_on_one_layer_are_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="two steps"):
        Budget.of(text)


def test_a_schedule_has_no_single_number_and_a_number_no_schedule() -> None:
    for ask in (Budget.resolve, Budget.minimum):
        with pytest.raises(BudgetError, match="schedule"):
            ask(Budget.of({2: 0.5}), torch.tensor([9]))
    with pytest.raises(BudgetError, match="64 is not a schedule"):
        Budget.of(64).cuts(32)


# --- ranges ---------------------------------------------------------------------------------------------------------


def test_a_range_bounds_what_the_method_chooses() -> None:
    budget = Budget.between(8, 0.5)
    assert budget.adaptive
    n = torch.tensor([100, 16, 10, 4, 0])
    assert budget.resolve(n).tolist() == [50, 8, 5, 2, 0]
    assert budget.minimum(n).tolist() == [8, 8, 5, 2, 0]  # bounds that cross: the upper holds


@laws
@given(
    st.integers(1, 1000) | st.floats(0.001, 1),
    st.integers(1, 1000) | st.floats(0.001, 1),
    st.lists(st.integers(0, 2000), min_size=1, max_size=5),
)
def test_the_least_is_never_above_the_most(low: float, high: float, n: list[int]) -> None:
    if type(low) is type(high) and low > high:
        low, high = high, low
    budget, tokens = Budget.between(low, high), torch.tensor(n)
    least, most = budget.minimum(tokens), budget.resolve(tokens)
    assert bool((least <= most).all())
    assert bool((least >= tokens.clamp(max=1)).all())
    assert most.equal(Budget.of(high).resolve(tokens))
    assert least.equal(Budget.of(low).resolve(tokens).minimum(most))


def test_without_a_range_the_least_is_the_number() -> None:
    n = torch.tensor([100, 3])
    assert Budget.of(7).minimum(n).tolist() == [7, 3]
    assert not Budget.of(7).adaptive


@pytest.mark.parametrize(("low", "high"), [(64, 8), (0.5, 0.25), ("50%", "25%")])
def test_bounds_the_wrong_way_round_are_refused(low: Any, high: Any) -> None:
    with pytest.raises(BudgetError, match="above the upper"):
        Budget.between(low, high)


def test_bounds_are_plain_budgets() -> None:
    for inner in (Budget.of({2: 0.5}), Budget.between(1, 2)):
        with pytest.raises(BudgetError, match="counts or shares"):
            Budget.between(1, inner)
        with pytest.raises(BudgetError):
            Budget.between(inner, 0.5)


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "json_value"),
    [
        (64, 64),
        (0.25, 0.25),
        ("8..50%", {"between": [8, 0.5]}),
        ({2: 0.5, 8: 64}, {"schedule": [[2, 0.5], [8, 64]]}),
        ({0.5: 0.25}, {"schedule": [[0.5, 0.25]]}),
    ],
)
def test_the_json_form(value: Any, json_value: Any) -> None:
    assert Budget.of(value).to_json() == json_value
    assert Budget.from_json(json_value) == Budget.of(value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"betwixt": [1, 2]},
        {"between": [1]},
        {"between": 3},
        {"between": [1, 2], "schedule": [[1, 2]]},
        {"schedule": []},
        {"schedule": [[1]]},
        {"schedule": [1, 2]},
        {"schedule": {"2": 0.5}},
        {"schedule": [[2, 0.5], [2, 0.25]]},
        0,
        None,
    ],
    ids=repr,
)
@pytest.mark.usefixtures("unchecked")
def test_json_that_is_no_budget_is_refused(value: Any) -> None:
    with pytest.raises(BudgetError):
        Budget.from_json(value)


# --- all pictures of a prompt together, and one for each ------------------------------------------------------------

_TOKENS = st.lists(st.integers(0, 3000), min_size=1, max_size=7)


def test_a_total_that_is_no_count_is_named_as_it_was_written() -> None:
    with pytest.raises(BudgetError, match="'50%'"):
        Budget.of("total:50%")
    with pytest.raises(BudgetError, match=r"number of tokens.*'total:1\.5'"):
        Budget.of("total:1.5")


def test_a_total_is_shared_out_in_proportion() -> None:
    total = Budget.total(256)
    assert resolved(total, 576, 144) == [205, 51]
    assert resolved(total, 576, 576) == [128, 128]
    assert resolved(total, 100, 100) == [100, 100]
    assert resolved(Budget.total(10), 1, 1, 1, 97) == [1, 1, 1, 7]
    assert resolved(Budget.total(3), 5, 5) == [2, 1]  # equal remainders: the earlier
    assert resolved(Budget.total(5), 8, 0, 8) == [3, 0, 2]


def test_a_total_is_for_each_prompt() -> None:
    n, row = torch.tensor([576, 144, 100, 300]), torch.tensor([0, 0, 1, 1])
    assert Budget.total(40).resolve(n, row).tolist() == [32, 8, 10, 30]


@laws
@given(st.integers(1, 20_000), _TOKENS)
@example(7, [1, 1, 1, 1, 1, 1, 1000])
def test_a_total_is_kept_exactly_and_in_proportion(total: int, n: list[int]) -> None:
    if total < sum(have > 0 for have in n):
        with pytest.raises(BudgetError, match="less than one for each"):
            resolved(Budget.total(total), *n)
        return
    kept = resolved(Budget.total(total), *n)
    assert sum(kept) == min(total, sum(n))
    assert all(min(1, have) <= k <= have for k, have in zip(kept, n, strict=True))
    exact = [Fraction(min(total, sum(n)) * have, max(1, sum(n))) for have in n]
    if all(math.floor(q) >= 1 for q, have in zip(exact, n, strict=True) if have):
        assert all(math.floor(q) <= k <= math.ceil(q) for k, q in zip(kept, exact, strict=True))


@laws
@given(st.integers(7, 20_000), _TOKENS)
def test_a_larger_picture_never_gets_less_of_a_total(total: int, n: list[int]) -> None:
    kept = resolved(Budget.total(total), *n)
    order = sorted(range(len(n)), key=lambda i: n[i])
    assert all(kept[a] <= kept[b] for a, b in pairwise(order) if n[a] < n[b])


def test_a_list_has_one_for_each_picture_of_a_prompt() -> None:
    budget = Budget.of([64, 0.25])
    assert resolved(budget, 576, 576) == [64, 144]
    n, row = torch.tensor([576, 400, 30, 20]), torch.tensor([0, 0, 1, 1])
    assert budget.resolve(n, row).tolist() == [64, 100, 30, 5]


def test_a_list_for_all_pictures_of_a_batch_is_taken_as_such() -> None:
    n, row = torch.tensor([100, 100, 100]), torch.tensor([0, 1, 1])
    assert Budget.of([1, 2, 3]).resolve(n, row).tolist() == [1, 2, 3]


@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 1, 1], [0, 0, 1]])
def test_a_list_of_another_length_is_refused(rows: list[int]) -> None:
    n = torch.full((len(rows),), 100)
    with pytest.raises(BudgetError, match=r"for 2 pictures, the prompt has \d"):
        Budget.of([64, 32]).resolve(n, torch.tensor(rows))


@pytest.mark.parametrize(
    ("text", "budget", "json_value"),
    [
        ("total:256", Budget.total(256), {"total": 256}),
        ("64,32", Budget.of([64, 32]), [64, 32]),
        ("64,25%", Budget.of([64, 0.25]), [64, 0.25]),
        ("64,", Budget.of([64]), [64]),
    ],
)
def test_totals_and_lists_in_text_and_json(text: str, budget: Budget, json_value: Any) -> None:
    assert Budget.of(text) == budget == Budget.from_json(json_value)
    assert str(budget) == text
    assert budget.to_json() == json_value
