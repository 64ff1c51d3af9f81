"""The plan of a comparison."""

from typing import Any

import pytest

from tokenry.bench.reducers.arms import BASELINES, FULL, MethodArm, plan_arms
from tokenry.reduce import reducer
from tokenry.tokens import Budget, BudgetError, InputError, TokenryError, UnknownNameError


def test_baselines_are_always_there() -> None:
    arms = plan_arms([], ["25%"], seeds=3)
    assert [(a.method, a.budget, a.seed) for a in arms] == [
        (FULL, "", 0),
        ("random", "25%", 0),
        ("random", "25%", 1),
        ("random", "25%", 2),
        ("pool", "25%", 0),
    ]


def test_naming_a_baseline_does_not_double_it() -> None:
    assert len(plan_arms(["none", "pool", "random", "divprune", "divprune"], ["50%"], seeds=1)) == 4


def test_every_method_at_every_budget() -> None:
    arms = plan_arms(["divprune", "fastv"], [64, "25%", 0.1], seeds=1)
    assert [a.budget for a in arms if a.method == "fastv"] == ["64", "25%", "10%"]
    assert arms[-1].methods[0].limit == Budget.of(0.1)


def test_a_chain_is_one_arm_and_says_what_each_member_leaves() -> None:
    """Half of a half is a quarter: "50%" would be no true name for it."""
    arm = plan_arms(["divprune+pyramiddrop"], ["50%"], seeds=1)[-1]
    assert (arm.method, arm.budget) == ("divprune+pyramiddrop", "50%+50%")
    assert [m.slug for m in arm.methods] == ["divprune", "pyramiddrop"]
    assert [m.limit for m in arm.methods] == [Budget.of(0.5)] * 2


def test_what_members_of_a_chain_bring_along_stays() -> None:
    chain = ["divprune", reducer("fastv", layer=3, budget=7), '{"method": "pyramiddrop", "budget": 0.1}']
    arms = [a for a in plan_arms([chain], ["50%", "25%"], seeds=1) if "divprune" in a.method]
    assert [(a.method, a.budget) for a in arms] == [
        ("divprune+fastv(layer=3)+pyramiddrop", "50%+7+10%"),
        ("divprune+fastv(layer=3)+pyramiddrop", "25%+7+10%"),
    ]
    assert [str(m.limit) for m in arms[1].methods] == ["25%", "7", "10%"]


def test_a_json_configuration_runs_at_its_own_budget_beside_baselines_at_the_same() -> None:
    spec = '{"method": "fastv", "layer": 3, "budget": 9}'
    arms = plan_arms([spec, "pool"], ["50%", "25%"], seeds=1)
    assert [a.budget for a in arms if a.method == "fastv(layer=3)"] == ["9"]
    for baseline in ("random", "pool"):
        assert sorted(a.budget for a in arms if a.method == baseline) == ["25%", "50%", "9"]


def test_a_configured_method_keeps_its_settings_and_tells_them() -> None:
    arm = plan_arms([reducer("fastv", layer=3, budget=7)], ["50%"], seeds=1)[-1]
    assert (arm.method, arm.budget) == ("fastv(layer=3)", "50%")
    assert arm.config[0]["layer"] == 3


def test_a_json_configuration_without_a_budget_runs_at_those_given() -> None:
    arms = plan_arms(['{"method": "fastv", "layer": 3}'], ["25%", 64], seeds=1)
    assert [(a.method, a.budget) for a in arms[-2:]] == [("fastv(layer=3)", "25%"), ("fastv(layer=3)", "64")]


@pytest.mark.parametrize("spec", ['{"method": ', "{}"])
def test_an_unreadable_configuration_is_refused(spec: str) -> None:
    with pytest.raises(TokenryError, match="configuration is JSON"):
        plan_arms([spec], ["25%"])


def test_bad_plans_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="divprune"):
        plan_arms(["divprun"], ["25%"])
    with pytest.raises(BudgetError):
        plan_arms([], ["0%"])
    with pytest.raises(InputError, match="no budget"):
        plan_arms([], [])
    with pytest.raises(InputError, match="one seed"):
        plan_arms([], ["25%"], seeds=0)


def _against(arms: tuple[MethodArm, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
    return {str(a): a.against for a in arms if a.methods and a.methods[0].slug not in BASELINES}


def _rules(arms: tuple[MethodArm, ...]) -> set[tuple[str, str]]:
    return {(a.method, str(m.position_rule)) for a in arms for m in a.methods}


def test_one_rule_for_position_ids_unless_papers_are_asked_for() -> None:
    names = ["fastervlm", "fastv"]
    everyone = {"random", "pool", *names}
    assert _rules(plan_arms(names, ["50%"])) == {(name, "keep") for name in everyone}
    assert _rules(plan_arms(names, ["50%"], positions="keep")) == {(name, "keep") for name in everyone}
    assert _rules(plan_arms(names, ["50%"], positions="compact")) == {(name, "compact") for name in everyone}
    with pytest.raises(TokenryError, match="'paper'"):
        plan_arms(names, ["50%"], positions="papers")


def test_under_the_papers_rules_each_method_meets_baselines_under_its_own() -> None:
    arms = plan_arms(["fastervlm", "fastv"], ["50%"], seeds=1, positions="paper")
    assert _rules(arms) == {
        ("random", "keep"),
        ("random(positions=compact)", "compact"),
        ("pool", "keep"),
        ("pool(positions=compact)", "compact"),
        ("fastervlm", "compact"),
        ("fastv", "keep"),
    }
    assert _against(arms) == {
        "fastervlm at 50%": (("random(positions=compact)", "50%"), ("pool(positions=compact)", "50%")),
        "fastv at 50%": (("random", "50%"), ("pool", "50%")),
    }
    (mixed,) = (a for a in plan_arms([reducer("fastv", positions="compact")], ["50%"], seeds=1) if a.against)
    assert (mixed.method, mixed.against[0]) == (
        "fastv(positions=compact)",
        ("random(positions=compact)", "50%"),
    )


@pytest.mark.parametrize(
    ("spec", "left"),
    [
        ("divprune+pyramiddrop", "25%"),  # half of a half
        ([reducer("divprune", budget=40), "pyramiddrop"], "20"),
        (["divprune", reducer("pyramiddrop", budget=7)], "7"),
        ('{"method": "fastv", "budget": 9}', "9"),
        ('{"method": "pyramiddrop", "budget": {"schedule": [[2, 0.5], [3, 0.25]]}}', None),
    ],
)
def test_an_arm_meets_baselines_that_leave_as_many_tokens(spec: Any, left: str | None) -> None:
    arms = plan_arms([spec], ["50%"], seeds=1)
    (against,) = _against(arms).values()
    assert against == (() if left is None else (("random", left), ("pool", left)))
    assert {(a.method, a.budget) for a in arms} >= {*against, ("random", "50%"), ("pool", "50%")}
