"""Do two test beds, or two trainings of one, rank methods alike?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from tokenry.bench.reproduce.measurement import rounded


@dataclass(frozen=True)
class Rank:
    """How far two beds agree on the order of methods at one budget.

    Attributes:
        beds: the two.
        budget: of the methods.
        tau: Kendall's tau-b: 1 where they order all pairs alike, -1 where all the other way round.
        methods: how many both have measured.
    """

    beds: tuple[str, str]
    budget: str
    tau: float
    methods: int

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "bed": self.beds[0],
            "beside": self.beds[1],
            "budget": self.budget,
            "tau": rounded(self.tau),
            "methods": self.methods,
        }


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's tau-b of two series: pairs in the same order less those in the other, over the geometric mean of the
    pairs that each series orders. Not a number where one of them orders none.
    """
    signs = [np.sign(np.subtract.outer(np.asarray(v, np.float64), np.asarray(v, np.float64))) for v in (x, y)]
    untied = np.sqrt(float((signs[0] != 0).sum()) * float((signs[1] != 0).sum()))
    return float((signs[0] * signs[1]).sum() / untied) if untied else float("nan")


def rank_agreement(accuracies: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Rank]:
    """Compare every two beds at every budget at which both have measured two methods and more.

    Args:
        accuracies: bed -> budget -> method -> accuracy.
    """
    found = []
    for one, other in combinations(accuracies, 2):
        for budget in accuracies[one]:
            theirs = accuracies[other].get(budget, {})
            both = [method for method in accuracies[one][budget] if method in theirs]
            if len(both) > 1:
                tau = kendall_tau([accuracies[one][budget][m] for m in both], [theirs[m] for m in both])
                found.append(Rank((one, other), budget, tau, len(both)))
    return found
