"""Finding the cheapest method and budget that keep a stated accuracy on the user's own data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenry.bench.reducers.arms import BASELINES, Spec, plan_arms
from tokenry.bench.reducers.choose import ArmChoice, choose, cost_column, safest
from tokenry.bench.reducers.compare import Comparison, compare
from tokenry.bench.reducers.headline import versus_baselines
from tokenry.bench.reducers.summary import Row, nothing_ran
from tokenry.data.questions.examples import Example
from tokenry.reduce import Reducer
from tokenry.reduce.registry import REDUCERS
from tokenry.tokens import BudgetLike, InputError

BUDGETS: tuple[BudgetLike, ...] = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)


@dataclass(frozen=True)
class Tuning:
    """What a search found.

    Attributes:
        comparison: everything that was measured.
        choice: the best row, the frontier, and by what rule.
        methods: the best row's methods, ready for `tokenry.reduced`; None if no row keeps enough.
    """

    comparison: Comparison
    choice: ArmChoice
    methods: tuple[Reducer, ...] | None

    @property
    def best(self) -> Row | None:
        """The cheapest row that keeps enough."""
        return self.choice.best

    def __str__(self) -> str:
        if (failure := nothing_ran(self.comparison.rows)) is not None:
            return failure
        cost, drop = self.choice.cost, 100 * self.choice.allowed_drop
        rows = [r for r in self.comparison.rows if r.sure is not None]
        confidence = f"97.5 % confidence for all {len(rows)} arms together"
        if self.best is not None:
            rule = f"loses, with {confidence}, at most {drop:.1f} points"
            return f"{self.best} is the cheapest by {cost.label} that {rule}. {versus_baselines(self.best)}"
        least = safest(rows)
        nearest = (
            f" The safest, {least}, may lose {-100 * least.sure.low:.1f}." if least and least.sure else ""
        )
        return (
            f"Nothing compared loses, with {confidence}, at most {drop:.1f} points.{nearest} Compare on more "
            "questions (narrower intervals), at larger budgets, or allow a larger loss."
        )


def tune(
    model: Any,
    processor: Any,
    data: Sequence[Example],
    target: float = 0.99,
    *,
    max_drop: float | None = None,
    methods: Sequence[Spec] | None = None,
    budgets: Sequence[BudgetLike] = BUDGETS,
    by: str = "prefill_flops",
    **options: Any,
) -> Tuning:
    """Find the cheapest method and budget that keep a stated accuracy.

    Everything is compared on all examples, with the baselines, and chosen from by the rule of
    `tokenry.bench.reducers.choose`: the lower bound of the paired interval, corrected for all arms that were tried,
    has to clear the target, so that luck is not mistaken for quality. Fewer methods and budgets mean narrower
    intervals. Interrupted, it continues where it stopped.

    Args:
        model: a vision-language model.
        processor: its processor.
        data: questions with reference answers.
        target: share of the full model's score to keep.
        max_drop: score that may be lost instead, as a share (0.01 = one point).
        methods: as in `compare`; every registered method by default.
        budgets: anything `Budget.of` reads.
        by: the cost to minimise: one of `tokenry.bench.reducers.columns.COSTS`.
        **options: of `compare`.

    Raises:
        InputError: a target outside (0, 1], a negative drop, data without reference answers.
        TokenryError: as `compare`.
    """
    cost_column(by)
    if not 0 < target <= 1:
        raise InputError(f"The target is a share of the full model's score in (0, 1], got {target!r}.")
    if max_drop is not None and not 0 <= max_drop < 1:
        raise InputError(f"The largest drop is a share in [0, 1), got {max_drop!r}; 0.01 is one point.")
    if data and not any(e.references for e in data):
        raise InputError("Tuning needs reference answers; none of these examples has one.")
    names = (
        list(methods) if methods is not None else [name for name in REDUCERS.names() if name not in BASELINES]
    )
    comparison = compare(model, processor, data, names, budgets, **options)
    arms = plan_arms(names, budgets, seeds=1, positions=options.get("positions"))
    asked = {(arm.method, arm.budget): arm.methods for arm in arms}
    full = next(r for r in comparison.rows if r.is_full)
    drop = max_drop if max_drop is not None else (1 - target) * (full.score or 0.0)
    # The file may hold more arms, of runs before: tried as well, so all intervals allow for them, but not asked for.
    candidates = [r for r in comparison.rows if (r.method, r.budget) in asked]
    choice = choose(candidates, allowed_drop=drop, by=by)
    best = choice.best
    return Tuning(comparison, choice, None if best is None else asked[best.method, best.budget])
