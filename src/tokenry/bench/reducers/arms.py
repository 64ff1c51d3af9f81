"""The plan of a comparison: which methods at which budgets, and the baselines that nobody may leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from tokenry.catalog.registry import controls
from tokenry.reduce import Reducer
from tokenry.reduce.registry import fill_in
from tokenry.tokens import HALF, Budget, BudgetLike, InputError, Positions

Spec: TypeAlias = str | Reducer | Sequence[str | Reducer]
"""A method by name, a chain ("divprune+pyramiddrop"), JSON, a configured method, or a list of these as a chain."""

_Chain: TypeAlias = tuple[Reducer, ...]

FULL = "none"
"""Label of the model as it is, on all of its tokens."""
BASELINES = controls("reducer")
"""The methods that stand in every comparison."""
BUDGETS: tuple[BudgetLike, ...] = (0.5, 0.25, 0.1)


@dataclass(frozen=True)
class MethodArm:
    """One thing to measure on every example.

    Attributes:
        method: label: the methods' names, and settings that differ from the paper's.
        budget: the budget as text, of a chain each member's ("25%+25%"); empty for `none`.
        seed: which repetition of a method that draws lots.
        methods: the configured methods, in order; none for `none`.
        against: method and budget of the baselines that this arm has to beat; none for the baselines themselves.
    """

    method: str
    budget: str
    seed: int
    methods: tuple[Reducer, ...]
    against: tuple[tuple[str, str], ...] = ()

    @property
    def config(self) -> list[dict[str, Any]]:
        """The configured methods as JSON."""
        return [m.to_json() for m in self.methods]

    @property
    def position_rule(self) -> Positions:
        """What becomes of position ids."""
        return _rule(self.methods)

    def __str__(self) -> str:
        return f"{self.method} at {self.budget}" if self.budget else self.method


def plan_arms(
    methods: Sequence[Spec] = (),
    budgets: Sequence[BudgetLike] = BUDGETS,
    *,
    seeds: int = 3,
    positions: Positions | str | None = None,
) -> tuple[MethodArm, ...]:
    """Every method at every budget; `none`, `random` (with `seeds` repetitions) and `pool` always among them.

    A name may chain methods ("divprune+pyramiddrop"): each of them gets the budget, and the arm says so. A chain may
    also be a list of names and configured methods; there, as in JSON, a budget that a member brings along stays. A
    `Reducer` alone is run at the given budgets in place of its own, which may be no more than its default.

    Baselines run at the given budgets, and wherever an arm needs them so that the two differ in what they select only:
    at as many tokens as the arm leaves (where that is a count or a share), and with position ids renumbered if the arm
    renumbers them. `positions` is one rule for all methods; without it each follows its configuration, which keeps
    position ids unless told otherwise.

    Raises:
        InputError: no budgets, or fewer than one seed.
        UnknownNameError: no such method.
        BudgetError: a budget that means nothing.
    """
    for what, given in (("Methods", methods), ("Budgets", budgets)):
        if isinstance(given, str):
            raise InputError(f"{what} come as a list, such as [{given!r}], not as one text.")
    if not budgets:
        raise InputError("There is no budget to compare at; give one, for instance 25%.")
    if seeds < 1:
        raise InputError(f"At least one seed is needed, got {seeds}.")
    limits = [Budget.of(b) for b in budgets]
    specs = [m for m in methods if m != FULL]
    common = Positions.of(positions or Positions.KEEP)
    chains = [_ruled(_read(spec, limit), positions) for spec in specs for limit in limits]

    def baselines(left: Budget | None, rule: Positions) -> list[_Chain]:
        found = [_ruled(_read(b, left), common) for b in BASELINES] if left is not None else []
        return [chain if _rule(chain) is rule else _ruled(chain, rule) for chain in found]

    own = [(_left(chain), _rule(chain)) for chain in chains]
    always = [(limit, common if common is Positions.COMPACT else Positions.KEEP) for limit in limits]
    needed = [chain for at in dict.fromkeys([*always, *own]) for chain in baselines(*at)]
    needed.sort(key=lambda chain: BASELINES.index(chain[0].slug))
    asked = {named(chain, common) for chain in chains}
    # Baselines that were asked for keep their place among the methods.
    needed = [chain for chain in needed if named(chain, common) not in asked]
    arms = {(FULL, "", 0): MethodArm(FULL, "", 0, ())}
    for chain in (*needed, *chains):
        label, budget = named(chain, common)
        rivals = [] if _is_baseline(chain) else baselines(_left(chain), _rule(chain))
        for seed in range(seeds if any(_draws(m) for m in chain) else 1):
            seeded = tuple(replace(m, seed=seed) if _draws(m) else m for m in chain)  # type: ignore[call-arg]
            against = tuple(named(rival, common) for rival in rivals)
            arms[label, budget, seed] = MethodArm(label, budget, seed, seeded, against)
    return tuple(arms.values())


def named(chain: Sequence[Reducer], common: Positions = Positions.KEEP) -> tuple[str, str]:
    """What a chain of configured methods is called, and its budgets: of each member, joined by "+".

    Args:
        chain: the methods.
        common: the rule for position ids that goes without saying.
    """
    return "+".join(_label(m, common) for m in chain), "+".join(str(m.limit) for m in chain)


def _read(spec: Spec, limit: Budget) -> _Chain:
    return (replace(spec, budget=limit),) if isinstance(spec, Reducer) else fill_in(spec, budget=limit)


def _ruled(chain: _Chain, positions: Positions | str | None) -> _Chain:
    """The chain under one rule for position ids; as it is configured without one."""
    return chain if positions is None else tuple(replace(m, positions=positions) for m in chain)


def _rule(chain: _Chain) -> Positions:
    """What a chain does with position ids: one member that renumbers is enough."""
    rules = {m.position_rule for m in chain}
    return Positions.COMPACT if Positions.COMPACT in rules else Positions.KEEP


def _left(chain: _Chain) -> Budget | None:
    """What a chain leaves, as one budget; None where that is no count and no share."""
    left = chain[0].limit
    for budget in (m.limit for m in chain[1:]):
        if budget.share is None:
            left = budget
        elif left.share is not None:
            left = Budget.of(left.share * budget.share)
        elif left.count is not None:
            left = Budget.of(max(1, int(left.count * budget.share + HALF)))
        else:
            return None
    return None if left.schedule is not None or left.bounds is not None else left


def _is_baseline(chain: _Chain) -> bool:
    return len(chain) == 1 and chain[0].slug in BASELINES


def _draws(method: Reducer) -> bool:
    """Whether the method draws lots."""
    return any(f.name == "seed" for f in fields(method))


def _label(method: Reducer, common: Positions) -> str:
    """The method's name, with the settings that are not its defaults, and a rule for position ids of its own."""
    usual = {f.name: f.default for f in fields(method)} | {"positions": common}
    changed = [
        f"{name}={getattr(method, name)}"
        for name, default in usual.items()
        if name not in ("budget", "seed") and getattr(method, name) != default
    ]
    return f"{method.slug}({', '.join(changed)})" if changed else method.slug
