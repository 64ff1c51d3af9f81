"""Conditional computation: costs, budgets, straight-through choices, running on some tokens only."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tokenry.models.adaptive.conditional import (
    CostTable,
    ModuleCost,
    absolute_budget_loss,
    budget_fraction,
    compute_map,
    gather_run_scatter,
    gumbel_st,
    squared_budget_loss,
)
from tokenry.tokens.errors import InputError

TABLE = CostTable(
    {"a": ModuleCost((0, 10, 20), full=19, overhead=1), "b": ModuleCost((5, 30), overhead=2)},
)


def one_hot(choices: list[int], n: int) -> Tensor:
    return torch.eye(n)[torch.tensor(choices)]


def test_totals_of_a_table():
    assert (TABLE.full, TABLE.highest, TABLE.overhead) == (49, 50, 3)


def test_a_table_can_be_copied_and_does_not_follow_its_source():
    modules = {"a": ModuleCost((0, 1))}
    table = CostTable(modules)
    modules["b"] = ModuleCost((0, 5))
    assert copy.deepcopy(table) == table == CostTable({"a": ModuleCost((0, 1))})


def test_executed_counts_gates_and_the_map_does_not():
    choices = {"a": torch.tensor([[0, 1], [2, 2]]), "b": torch.tensor([[0, 0], [0, 1]])}
    assert TABLE.executed(choices).tolist() == [[8, 18], [28, 53]]
    torch.testing.assert_close(compute_map(choices, TABLE), torch.tensor([[5, 15], [25, 50]]) / 50)


def test_fraction_is_the_mean_of_the_map_and_padding_is_left_out():
    choices = {"a": torch.tensor([0, 1, 2]), "b": torch.tensor([0, 1, 1])}
    gates = {"a": one_hot([0, 1, 2], 3), "b": one_hot([0, 1, 1], 2)}
    torch.testing.assert_close(budget_fraction(gates, TABLE), compute_map(choices, TABLE).mean())
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(budget_fraction(gates, TABLE, mask), compute_map(choices, TABLE)[mask].mean())


def test_costs_of_nought_and_one_give_the_mean_probability_even_if_modules_differ():
    table = CostTable({"0": ModuleCost((0, 1)), "1": ModuleCost((0, 1))})
    p = {"0": torch.tensor([[0.1, 0.9]]), "1": torch.tensor([[0.9, 0.1]])}
    fraction = budget_fraction(p, table)
    torch.testing.assert_close(fraction, torch.tensor(0.5))
    assert float(squared_budget_loss(fraction, 0.5)) == pytest.approx(0, abs=1e-12)
    assert float(absolute_budget_loss(fraction, 0.25)) == pytest.approx(0.25)
    assert float(squared_budget_loss(fraction, 0.25)) == pytest.approx(0.0625)


def test_budget_has_a_gradient_through_hard_choices():
    logits = torch.zeros(64, 3, requires_grad=True)
    gates = gumbel_st(logits, 0.8, generator=torch.Generator().manual_seed(0))
    table = CostTable({"a": ModuleCost((0, 1, 2))})
    absolute_budget_loss(budget_fraction({"a": gates}, table), 0.0).backward()
    assert logits.grad is not None
    pushed = logits.grad.mean(0)
    assert pushed[2] > 0 > pushed[0]  # descent lowers the dear choice and raises the cheap one


def test_gumbel_draws_the_distribution_of_the_logits_and_is_one_hot():
    p = torch.tensor([0.5, 0.3, 0.2])
    drawn = gumbel_st(p.log().expand(20_000, 3), 0.5, generator=torch.Generator().manual_seed(1))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), p, atol=0.015, rtol=0)
    soft = gumbel_st(p.log()[None], 0.5, hard=False, generator=torch.Generator().manual_seed(1))
    assert 0 < float(soft.max()) < 1
    assert float(soft.sum()) == pytest.approx(1)


def test_gumbel_keeps_the_type_and_follows_its_generator():
    logits = torch.randn(4, 3, dtype=torch.bfloat16)
    a, b = (gumbel_st(logits, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert a.dtype == torch.bfloat16
    assert torch.equal(a, b)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_gather_run_scatter_equals_masking(share: float):
    torch.manual_seed(0)
    x, net = torch.randn(2, 7, 5), nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Linear(9, 5))
    mask = torch.rand(2, 7) < share
    seen: list[int] = []

    def fn(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return net(rows)

    torch.testing.assert_close(gather_run_scatter(x, mask, fn), net(x) * mask[..., None])
    assert seen == ([int(mask.sum())] if mask.any() else [])


def test_gather_run_scatter_has_the_gradients_of_masking():
    torch.manual_seed(0)
    x, net = torch.randn(6, 5, requires_grad=True), nn.Linear(5, 5)
    mask = torch.tensor([True, False, True, False, False, True])
    run = torch.autograd.grad(gather_run_scatter(x, mask, net).square().sum(), [x, *net.parameters()])
    dense = torch.autograd.grad((net(x) * mask[:, None]).square().sum(), [x, *net.parameters()])
    torch.testing.assert_close(run, dense)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: CostTable({}), "at least one module"),
        (lambda: ModuleCost(()), "choices that cost 0 or more"),
        (lambda: ModuleCost((0, -1)), "choices that cost 0 or more"),
        (lambda: ModuleCost((0, 1), full=0), "at least 1 multiply-add"),
        (lambda: TABLE.executed({"a": torch.zeros(2).long()}), "made no choice"),
        (lambda: TABLE.executed({"a": torch.tensor([3]), "b": torch.tensor([0])}), "choices 0 to 2, got 3"),
        (lambda: TABLE.executed({"a": torch.tensor([0]), "c": torch.tensor([0])}), "'b' is in the table"),
        (lambda: budget_fraction({"a": torch.eye(2), "b": torch.eye(2)}, TABLE), "got gates over 2"),
        (
            lambda: budget_fraction({"a": torch.eye(3), "b": torch.ones(3, 2)}, TABLE, torch.zeros(3) > 0),
            "leaves no token",
        ),
        (lambda: absolute_budget_loss(torch.tensor(0.5), 1.5), "from 0 to 1, got 1.5"),
        (lambda: gumbel_st(torch.zeros(1, 2), 0.0), "Tau must be above 0"),
        (
            lambda: gather_run_scatter(torch.zeros(3, 2), torch.ones(3) > 0, nn.Linear(2, 4)),
            "keep tokens and width",
        ),
    ],
)
def test_bad_input(wrong, message: str):
    with pytest.raises(InputError, match=message):
        wrong()
