"""DivPrune: is the most diverse subset better than the best-scored one where few tokens are kept?"""

from __future__ import annotations

from reproductions.reduce.arms import positions, random_tokens
from reproductions.reduce.recorders import LeastDistance
from tokenry.bench.reproduce import Arms, Outcome, Study, mean_over, points
from tokenry.reduce.divprune import DivPrune
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.random import RandomTokens


def experiment(study: Study) -> Outcome:
    """Max-min selection against random and [CLS] top-k; the least distance within what each keeps."""
    keep, judged = positions(study), study.settings["judged_at"]
    arms: Arms = {
        "full": [()],
        f"divprune {judged:.4g}, renumbered": [(DivPrune(budget=judged, positions="compact"),)],
        f"random {judged:.4g}, renumbered": random_tokens(study, judged, "compact"),
    }
    for b in study.settings["budgets"]:
        arms[f"divprune {b:.4g}"] = [(DivPrune(budget=b, positions=keep), LeastDistance())]
        arms[f"[CLS] {b:.4g}"] = [(FasterVLM(budget=b, positions=keep), LeastDistance())]
        seeds = study.settings["random_seeds"]
        arms[f"random {b:.4g}"] = [
            (RandomTokens(budget=b, positions=keep, seed=s), LeastDistance()) for s in seeds
        ]
    answered = study.ask(arms)
    b = judged
    ours, cls, random = (answered[f"{name} {b:.4g}"] for name in ("divprune", "[CLS]", "random"))
    distance = {name: s.readings["least distance"] for name, s in answered.items() if s.readings}
    by_chance = float(distance[f"random {b:.4g}"].mean())
    measurements = {
        "points over random": points(ours, random),
        "points over cls": points(ours, cls),
        # A cosine distance is between 0 and 2.
        "distance over random": mean_over(ours, distance[f"divprune {b:.4g}"], bounds=(0, 2)).over(by_chance),
    }
    return study.lab.outcome(
        (f"DivPrune at {b:.4g} of the tokens", f"random selection at {b:.4g}"),
        ours,
        random,
        answered["full"],
        measurements,
        answered,
        details={
            "least cosine distance between kept tokens": {
                name: round(float(values.mean()), 4) for name, values in distance.items()
            }
        },
    )
