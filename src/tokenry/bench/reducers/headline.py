"""What a comparison says, in a sentence or two that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Sequence

from tokenry.bench.reducers.choose import choose
from tokenry.bench.reducers.columns import bracket, signed
from tokenry.bench.reducers.summary import Row, nothing_ran

_NOTABLY = 1.1
"""How many times a baseline's tokens a row may have before that is said."""
_TARGETS = (0.99, 0.98, 0.97, 0.95, 0.925, 0.9, 0.875, 0.85, 0.8)


def headline(rows: Sequence[Row]) -> str:
    """The cheapest row that keeps most of the full model's score, and how it does against the baselines."""
    if (failure := nothing_ran(rows)) is not None:
        return failure
    full = next((row for row in rows if row.is_full), None)
    if full is None or full.score is None:
        return "The data set has no reference answers: what counts here is how many answers stay the same."
    picked = pick(rows)
    if picked is None:
        return (
            f"On {full.examples} questions no method and budget compared here keeps 80 % of the full model's score "
            "with 97.5 % confidence for all of them together: compare on more questions, or at larger budgets."
        )
    best, target = picked
    saved = 1 - (best.prefill_flops or 0) / (full.prefill_flops or 1)
    return (
        f"{best} is the cheapest that keeps at least {100 * target:g} % of the full model's score, with 97.5 % "
        f"confidence for all arms together. It saves {100 * saved:.0f} % of the prefill's operations. "
        f"{versus_baselines(best)}"
    )


def pick(rows: Sequence[Row]) -> tuple[Row, float] | None:
    """The cheapest row for the highest share of the full model's score that any row keeps, and that share."""
    full = next((row for row in rows if row.is_full), None)
    if full is None or full.score is None:
        return None
    for target in _TARGETS:
        best = choose(rows, allowed_drop=(1 - target) * full.score).best
        if best is not None:
            return best, target
    return None


def versus_baselines(row: Row) -> str:
    """How a row does against the baselines, as a sentence that claims no more than was shown."""
    if row.is_baseline:
        return "It is a baseline itself: no method compared here is shown to keep as much for less."
    if not row.against:
        return "No baseline was measured at this budget."
    better = [r.name for r in row.against if r.is_better]
    rest = [r.name for r in row.against if not r.is_better]
    claims = []
    if better:
        claims.append(
            f"better than {' and '.join(better)} at this budget, with 97.5 % confidence for all arms together"
        )
    if rest:
        claims.append(f"not shown to be better than {' or '.join(rest)} at this budget")
    figures = " and ".join(f"{r.name} {signed(r.sure.mean)} points {bracket(r.sure)}" for r in row.against)
    return f"It is {', but '.join(claims)}: against {figures}.{_cheaper_baselines(row)}"


def _cheaper_baselines(row: Row) -> str:
    """That a method which acts late had more to work with than the baselines at its budget, if it had."""
    mine = row.tokens_mean or 0.0
    least = min(row.against, key=lambda r: r.tokens_mean)
    if mine <= _NOTABLY * least.tokens_mean:
        return ""
    return f" But it has {mine:.0f} tokens a layer where {least.name} has {least.tokens_mean:.0f}."
