"""FastV: can half of the visual tokens go after the second layer?"""

from __future__ import annotations

from reproductions.reduce.controls import LateRandom
from tokenry.bench.reproduce import Arms, Outcome, Predictions, Study, points
from tokenry.reduce.fastv import FastV


def experiment(study: Study) -> Outcome:
    """Cuts before several layers, against all tokens and against a random drop before the same layer."""
    s = study.settings
    arms: Arms = {"full": [()]}
    for b in s["budgets"]:
        for k in s["layers"]:
            arms[_name("fastv", k, b)] = [(FastV(budget=b, layer=k),)]
        k = s["judged_at"]["layer"]
        arms[_name("random drop", k, b)] = [
            (LateRandom(budget=b, layer=k, seed=r),) for r in s["random_seeds"]
        ]
    answered = study.ask(arms)
    at = (s["judged_at"]["layer"], s["judged_at"]["budget"])
    full, ours, random = answered["full"], answered[_name("fastv", *at)], answered[_name("random drop", *at)]
    early, late = (Predictions.mean([answered[_name("fastv", k, b)] for b in s["budgets"]]) for k in (1, 4))
    measurements = {
        "points lost": points(full, ours),
        "points over random drop": points(ours, random),
        "points of k4 over k1": points(late, early),
    }
    return study.lab.outcome(
        (f"FastV, K = {at[0]}, keeping {at[1]:.4g}", "all tokens"),
        ours,
        full,
        full,
        measurements,
        answered,
    )


def _name(what: str, layer: int, budget: float) -> str:
    return f"{what}, K = {layer}, {budget:.4g}"
