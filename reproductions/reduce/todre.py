"""ToDRE: is a diverse subset enough, and can all visual tokens go once the text has read the picture?"""

from __future__ import annotations

import numpy as np

from reproductions.reduce.arms import positions, random_tokens
from reproductions.reduce.recorders import AttentionToPicture
from tokenry.bench.reproduce import Arms, Measurement, Outcome, Predictions, Study, mean_over, points
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.todre import ToDRE

_EVERYTHING = 1_000_000
"""A count that no picture exceeds: stage 1 keeps all tokens."""
_ALWAYS = 2.0
"""A threshold above any share of attention: stage 2 always drops."""


def experiment(study: Study) -> Outcome:
    """Stage 1 against [CLS], DivPrune and random; attention to the picture by layer; stage 2 forced at every depth."""
    settings, keep = study.settings, positions(study)
    arms: Arms = {"full": [(AttentionToPicture(), AttentionToPicture(which="next"))]}
    for b in settings["budgets"]:
        # Stage 1 alone: stage 2 would need a layer to look at, and is judged by itself below.
        arms[f"todre, max-sum, {b:.4g}"] = [(ToDRE(budget=b, check=None, positions=keep),)]
        arms[f"todre, k-center, {b:.4g}"] = [(ToDRE(budget=b, check=None, rule="kcenter", positions=keep),)]
        arms[f"[CLS] {b:.4g}"] = [(FasterVLM(budget=b, positions=keep),)]
        arms[f"divprune {b:.4g}"] = [(DivPrune(budget=b, positions=keep),)]
        arms[f"random {b:.4g}"] = random_tokens(study, b)
    large, small = settings["budgets"]
    arms[f"todre, max-sum, {large:.4g}, renumbered"] = [(ToDRE(budget=large, check=None),)]
    for ran in settings["removal_after"]:
        arms[_removed(ran)] = [(ToDRE(budget=_EVERYTHING, check=ran - 1, tau=_ALWAYS, positions=keep),)]
    answered = study.ask(arms)
    full = answered["full"]
    attention = [full.readings[f"attention in layer {i}"] for i in range(full.counts.shape[1])]
    ours, random = answered[f"todre, max-sum, {large:.4g}"], answered[f"random {large:.4g}"]
    measurements = {
        "share of full at 25%": mean_over(ours, ours.correct).over(full.accuracy),
        "points over random at 10%": points(
            answered[f"todre, max-sum, {small:.4g}"], answered[f"random {small:.4g}"]
        ),
        "rank correlation of attention with depth": _falls(full, np.stack(attention, 1)),
        "points lost late": points(full, answered[_removed(settings["late"])]),
        "points lost early": points(full, answered[_removed(settings["early"])]),
    }
    return study.lab.outcome(
        (f"ToDRE's stage 1 at {large:.4g} of the tokens", f"random selection at {large:.4g}"),
        ours,
        random,
        full,
        measurements,
        answered,
        details={
            "share of the text's attention on the picture, by layer": [
                round(float(a.mean()), 4) for a in attention
            ],
            "points lost by removing all visual tokens after so many layers": {
                str(ran): round(points(full, answered[_removed(ran)]).value, 2)
                for ran in settings["removal_after"]
            },
        },
    )


def _removed(ran: int) -> str:
    return f"all removed after {ran} layers"


def _falls(found: Predictions, attention: np.ndarray) -> Measurement:
    """Rank correlation between depth and mean attention, overall and by set of questions."""

    def correlation(rows: np.ndarray) -> float:
        ranks = rows.mean(0).argsort().argsort()
        return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])

    by_seed = tuple(correlation(attention[found.seeds == s]) for s in sorted(set(found.seeds.tolist())))
    return Measurement(correlation(attention), by_seed=by_seed)
