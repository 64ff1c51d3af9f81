"""VTC-CLS: is [CLS] attention summed over several late blocks as good as one block's, and steadier?"""

from __future__ import annotations

import statistics

import numpy as np

from tokenry.bench.reproduce.findings import Findings, Trial
from tokenry.bench.reproduce.lab import Arms
from tokenry.bench.reproduce.sheet import Sheet, mean_over, points
from tokenry.reduce.fastv import FastV
from tokenry.reduce.vtc_cls import VtcCls


def experiment(trial: Trial) -> Findings:
    """Ensembles that start at earlier blocks, against the last block alone, random selection and FastV."""
    budgets, (single, *ensembles) = trial.settings["budgets"], trial.settings["starts"]
    arms: Arms = {"full": [()]}
    for b in budgets:
        for start in (single, *ensembles):
            arms[f"blocks {start}..-2, {b:.4g}"] = [
                (VtcCls(budget=b, start=start, positions=trial.positions),)
            ]
        arms[f"random {b:.4g}"] = trial.random(b)
        arms[f"fastv {b:.4g}"] = [(FastV(budget=b, layer=trial.settings["fastv_layer"]),)]
    sheets = trial.ask(arms)
    one = Sheet.mean([sheets[f"blocks {single}..-2, {b:.4g}"] for b in budgets])
    several = Sheet.mean([sheets[f"blocks {s}..-2, {b:.4g}"] for s in ensembles for b in budgets])
    random = Sheet.mean([sheets[f"random {b:.4g}"] for b in budgets])
    fastv = Sheet.mean([sheets[f"fastv {b:.4g}"] for b in budgets])
    figures = {
        "points of recall over one block": points(several, one, "objects"),
        "recall over chance": mean_over(several, several.objects).over(float(np.mean(budgets))),
        "points over random": points(several, random),
        "points over fastv": points(several, fastv),
    }
    spread = {
        name: {what: _spread(s, values) for what, values in (("recall", s.objects), ("accuracy", s.correct))}
        for name, s in (("ensembles", several), ("one block", one))
    }
    return Findings(
        ("ensembles of late blocks, mean over starts and budgets", "the last block alone, mean over budgets"),
        several,
        one,
        sheets["full"],
        figures,
        sheets,
        details={"spread over sets of test scenes, points": spread},
        notes=(
            "The paper's steadiness is over benchmarks, the specification's over training seeds; there is one trained "
            "model, so the spread shown is over sets of test scenes only, and is not judged.",
        ),
    )


def _spread(sheet: Sheet, values: np.ndarray) -> float:
    """Standard deviation between sets of questions, in points."""
    by_seed = mean_over(sheet, values, scale=100).by_seed
    return round(statistics.stdev(by_seed), 2) if len(by_seed) > 1 else float("nan")
