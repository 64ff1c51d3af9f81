"""The plan of a comparison: which methods at which budgets, and the baselines that nobody may leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from tokenry.reduce import Reducer
from tokenry.reduce.registry import fill_in
from tokenry.tokens import Budget, BudgetLike, InputError, Positions

Spec: TypeAlias = str | Reducer | Sequence[str | Reducer]
"""A method by name, a chain ("divprune+pyramiddrop"), JSON, a configured method, or a list of these as a chain."""

FULL = "none"
"""Label of the model as it is, on all of its tokens."""
BASELINES = ("random", "pool")
BUDGETS: tuple[BudgetLike, ...] = (0.5, 0.25, 0.1)


@dataclass(frozen=True)
class Arm:
    """One thing to measure on every example.

    Attributes:
        method: label: the methods' names, and settings that differ from the paper's.
        budget: the budget as text, of a chain each member's ("25%+25%"); empty for `none`.
        seed: which repetition of a method that draws lots.
        methods: the configured methods, in order; none for `none`.
    """

    method: str
    budget: str
    seed: int
    methods: tuple[Reducer, ...]

    @property
    def config(self) -> list[dict[str, Any]]:
        """The configured methods as JSON."""
        return [m.to_json() for m in self.methods]

    def __str__(self) -> str:
        return f"{self.method} at {self.budget}" if self.budget else self.method


def plan_arms(
    methods: Sequence[Spec] = (),
    budgets: Sequence[BudgetLike] = BUDGETS,
    *,
    seeds: int = 3,
    positions: Positions | str | None = None,
) -> tuple[Arm, ...]:
    """Every method at every budget; `none`, `random` (with `seeds` repetitions) and `pool` always among them.

    A name may chain methods ("divprune+pyramiddrop"): each of them gets the budget, and the arm says so. A chain may
    also be a list of names and configured methods; there, as in JSON, a budget that a member brings along stays. A
    `Reducer` alone is run at the given budgets in place of its own, which may be no more than its default. Where an
    arm has a budget of its own, the baselines are run at that one too. With `positions`, all methods follow that one
    rule for the ids of the tokens that stay, in place of their papers'.

    Raises:
        InputError: no budgets, or fewer than one seed.
        UnknownNameError: no such method.
        BudgetError: a budget that means nothing.
    """
    if not budgets:
        raise InputError("There is no budget to compare at; give one, for instance 25%.")
    if seeds < 1:
        raise InputError(f"At least one seed is needed, got {seeds}.")
    limits = [Budget.of(b) for b in budgets]
    wanted = [m for m in methods if m != FULL]
    chains = [_read(spec, limit) for spec in wanted for limit in limits]
    alone = [chain[0].limit for chain in chains if len(chain) == 1]
    matched = list(dict.fromkeys([*limits, *(b for b in alone if b.schedule is None and b.bounds is None)]))
    # Baselines that were asked for keep their place among the methods.
    baselines = [
        _read(b, limit) for b in BASELINES for limit in matched if b not in wanted or limit not in limits
    ]
    arms = {(FULL, "", 0): Arm(FULL, "", 0, ())}
    for chain in (*baselines, *chains):
        label, budget = named(chain)
        if positions is not None:
            chain = tuple(replace(m, positions=positions) for m in chain)
        for seed in range(seeds if any(_draws(m) for m in chain) else 1):
            seeded = tuple(replace(m, seed=seed) if _draws(m) else m for m in chain)  # type: ignore[call-arg]
            arms[label, budget, seed] = Arm(label, budget, seed, seeded)
    return tuple(arms.values())


def named(chain: Sequence[Reducer]) -> tuple[str, str]:
    """What a chain of configured methods is called, and its budgets: of each member, joined by "+"."""
    return "+".join(map(_label, chain)), "+".join(str(m.limit) for m in chain)


def _read(spec: Spec, limit: Budget) -> tuple[Reducer, ...]:
    return (replace(spec, budget=limit),) if isinstance(spec, Reducer) else fill_in(spec, budget=limit)


def _draws(method: Reducer) -> bool:
    """Whether the method draws lots."""
    return any(f.name == "seed" for f in fields(method))


def _label(method: Reducer) -> str:
    """The method's name, with the settings that are not its defaults."""
    changed = [
        f"{f.name}={getattr(method, f.name)}"
        for f in fields(method)
        if f.name not in ("budget", "seed") and getattr(method, f.name) != f.default
    ]
    return f"{method.slug}({', '.join(changed)})" if changed else method.slug
