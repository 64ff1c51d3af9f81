"""FasterVLM: does [CLS] attention find the patches that matter, and is what it keeps enough to answer?"""

from __future__ import annotations

from tokenry.bench.reproduce.controls import ReverseCls
from tokenry.bench.reproduce.findings import Findings, Trial
from tokenry.bench.reproduce.lab import Arms
from tokenry.bench.reproduce.sheet import mean_over, points
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV


def experiment(trial: Trial) -> Findings:
    """[CLS] top-k against random, against itself reversed, and against FastV at the same tokens per layer."""
    budgets = trial.settings["budgets"]
    keep, judged = trial.positions, trial.settings["judged_at"]
    arms: Arms = {
        "full": [()],
        f"fastervlm {judged:.4g}, renumbered": [(FasterVLM(budget=judged, positions="compact"),)],
        f"random {judged:.4g}, renumbered": trial.random(judged, "compact"),
    }
    for b in budgets:
        arms[f"fastervlm {b:.4g}"] = [(FasterVLM(budget=b, positions=keep),)]
        arms[f"random {b:.4g}"] = trial.random(b)
        arms[f"reverse [CLS] {b:.4g}"] = [(ReverseCls(budget=b, positions=keep),)]
        arms[f"fastv, K = 2, {b:.4g}"] = [(FastV(budget=b, layer=2),)]
    sheets = trial.ask(arms)
    full = sheets["full"]
    n = int(full.counts[0, 0])
    same: dict[float, str] = {}
    for b, layer in trial.settings["fastv"].items():
        flops = trial.lab.visual_flops(sheets[f"fastervlm {b:.4g}"].counts)
        method = trial.lab.fastv_at(flops, layer, n)
        same[b] = f"fastv, K = {layer}, at the FLOPs of {b:.4g}"
        sheets |= trial.ask({same[b]: [(method,)]})
    b = judged
    ours, random, reverse = (sheets[f"{name} {b:.4g}"] for name in ("fastervlm", "random", "reverse [CLS]"))
    figures = {
        "recall over chance": mean_over(ours, ours.objects).over(b),
        "points over random": points(ours, random),
        "points of reverse under random": points(random, reverse),
        "share of full": mean_over(ours, ours.correct).over(full.accuracy),
    }
    figures |= {
        f"points over fastv at {b:.0%}": points(sheets[f"fastervlm {b:.4g}"], sheets[same[b]]) for b in same
    }
    return Findings(
        (f"FasterVLM at {b:.4g} of the tokens", f"random selection at {b:.4g}"),
        ours,
        random,
        full,
        figures,
        sheets,
        notes=(
            "FastV at the same tokens per layer: with K = 2 of 8 layers it cannot go below 25 %, so it is given K = 1 "
            "there; rows 'fastv, K = 2, b' keep the same number of tokens as the others and spend more.",
        ),
    )
