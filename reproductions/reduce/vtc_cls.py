"""VTC-CLS: is [CLS] attention summed over several late blocks as good as one block's, and steadier?"""

from __future__ import annotations

import statistics

import numpy as np

from reproductions.reduce.arms import positions, random_tokens
from tokenry.bench.reproduce import Arms, Outcome, Predictions, Study, mean_over, points
from tokenry.reduce.fastv import FastV
from tokenry.reduce.vtc_cls import VtcCls


def experiment(study: Study) -> Outcome:
    """Ensembles that start at earlier blocks, against the last block alone, random selection and FastV."""
    budgets, (single, *ensembles) = study.settings["budgets"], study.settings["starts"]
    arms: Arms = {"full": [()]}
    for b in budgets:
        for start in (single, *ensembles):
            arms[f"blocks {start}..-2, {b:.4g}"] = [
                (VtcCls(budget=b, start=start, positions=positions(study)),)
            ]
        arms[f"random {b:.4g}"] = random_tokens(study, b)
        arms[f"fastv {b:.4g}"] = [(FastV(budget=b, layer=study.settings["fastv_layer"]),)]
    answered = study.ask(arms)
    one = Predictions.mean([answered[f"blocks {single}..-2, {b:.4g}"] for b in budgets])
    several = Predictions.mean([answered[f"blocks {s}..-2, {b:.4g}"] for s in ensembles for b in budgets])
    random = Predictions.mean([answered[f"random {b:.4g}"] for b in budgets])
    fastv = Predictions.mean([answered[f"fastv {b:.4g}"] for b in budgets])
    measurements = {
        "points of recall over one block": points(several, one, "objects"),
        "recall over chance": mean_over(several, several.objects).over(float(np.mean(budgets))),
        "points over random": points(several, random),
        "points over fastv": points(several, fastv),
    }
    spread = {
        name: {what: _spread(s, values) for what, values in (("recall", s.objects), ("accuracy", s.correct))}
        for name, s in (("ensembles", several), ("one block", one))
    }
    return study.lab.outcome(
        ("ensembles of late blocks, mean over starts and budgets", "the last block alone, mean over budgets"),
        several,
        one,
        answered["full"],
        measurements,
        answered,
        details={"spread over sets of test scenes, points": spread},
    )


def _spread(found: Predictions, values: np.ndarray) -> float:
    """Standard deviation between sets of questions, in points."""
    by_seed = mean_over(found, values, scale=100).by_seed
    return round(statistics.stdev(by_seed), 2) if len(by_seed) > 1 else float("nan")
