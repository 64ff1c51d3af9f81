"""Which of the compared rows to take: the trade-off's frontier, and the cheapest that keeps what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenry.bench.reducers.columns import COSTS, TableColumn
from tokenry.bench.reducers.summary import Row
from tokenry.tokens import UnknownNameError


@dataclass(frozen=True)
class ArmChoice:
    """The outcome of a choice.

    Attributes:
        best: the cheapest row that keeps enough; None if none does.
        frontier: rows that no other row beats in both score and cost, cheapest first.
        allowed_drop: how much score may be lost, in shares (0.01 = one point).
        cost: the column that was minimised.
    """

    best: Row | None
    frontier: tuple[Row, ...]
    allowed_drop: float
    cost: TableColumn


def cost_column(name: str) -> TableColumn:
    """A cost by name.

    Raises:
        UnknownNameError: no such cost.
    """
    if name not in COSTS:
        raise UnknownNameError(f"There is no cost {name!r}; choose one of {', '.join(COSTS)}.")
    return COSTS[name]


def choose(rows: Sequence[Row], *, allowed_drop: float, by: str = "prefill_flops") -> ArmChoice:
    """The cheapest row whose score is, with 97.5 % confidence, not more than `allowed_drop` below the full model's.

    The criterion is the lower bound of the paired interval, not the mean: with few examples a lucky mean is cheap, and
    a method that was chosen for being lucky disappoints in use. The interval is the one that is corrected for all rows
    of the comparison (`Row.sure`), since the best of many has had many chances to be lucky; it holds whatever drop is
    asked for, and however many are tried. Questions that a row failed on count as lost: a method is not cheap for
    running out of memory on the large pictures. A wide interval is a request for more examples.

    Args:
        rows: those of a comparison that may be chosen.
        allowed_drop: score that may be lost, as a share (0.01 = one point).
        by: the cost to minimise, a name in `COSTS`.
    """
    column = cost_column(by)
    usable = [r for r in rows if r.score is not None and column.value(r) is not None]
    good = [r for r in usable if r.sure is not None and r.sure.low >= -allowed_drop]
    best = min(good, key=lambda r: (column.value(r) or 0, -(r.score or 0), r.is_baseline), default=None)
    frontier: list[Row] = []
    for row in sorted(usable, key=lambda r: (column.value(r) or 0, -(r.score or 0))):
        if not frontier or (row.score or 0) > (frontier[-1].score or 0):
            frontier.append(row)
    return ArmChoice(best, tuple(frontier), allowed_drop, column)


def safest(rows: Sequence[Row]) -> Row | None:
    """The row that may lose least, of equals a method rather than a baseline; None without scores."""
    judged = [(r.sure.low, not r.is_baseline, r) for r in rows if r.sure is not None]
    return max(judged, key=lambda one: one[:2], default=(0.0, False, None))[2]
