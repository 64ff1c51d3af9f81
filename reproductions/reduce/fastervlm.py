"""FasterVLM: does [CLS] attention find the patches that matter, and is what it keeps enough to answer?"""

from __future__ import annotations

from reproductions.reduce.arms import fastv_at, positions, random_tokens
from tokenry.bench.reproduce import Arms, Outcome, Study, mean_over, points
from tokenry.bench.testbeds import LeastByCls
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV


def experiment(study: Study) -> Outcome:
    """[CLS] top-k against random, against itself reversed, and against FastV at the same tokens per layer."""
    budgets = study.settings["budgets"]
    keep, judged = positions(study), study.settings["judged_at"]
    arms: Arms = {
        "full": [()],
        f"fastervlm {judged:.4g}, renumbered": [(FasterVLM(budget=judged, positions="compact"),)],
        f"random {judged:.4g}, renumbered": random_tokens(study, judged, "compact"),
    }
    for b in budgets:
        arms[f"fastervlm {b:.4g}"] = [(FasterVLM(budget=b, positions=keep),)]
        arms[f"random {b:.4g}"] = random_tokens(study, b)
        arms[f"reverse [CLS] {b:.4g}"] = [(LeastByCls(budget=b, positions=keep),)]
        arms[f"fastv, K = 2, {b:.4g}"] = [(FastV(budget=b, layer=2),)]
    answered = study.ask(arms)
    full = answered["full"]
    n = int(full.counts[0, 0])
    same: dict[float, str] = {}
    for b, layer in study.settings["fastv"].items():
        flops = study.lab.visual_flops(answered[f"fastervlm {b:.4g}"].counts)
        method = fastv_at(study.lab, flops, layer, n)
        same[b] = f"fastv, K = {layer}, at the FLOPs of {b:.4g}"
        answered |= study.ask({same[b]: [(method,)]})
    b = judged
    ours, random, reverse = (answered[f"{name} {b:.4g}"] for name in ("fastervlm", "random", "reverse [CLS]"))
    measurements = {
        "recall over chance": mean_over(ours, ours.objects).over(b),
        "points over random": points(ours, random),
        "points of reverse under random": points(random, reverse),
        "share of full": mean_over(ours, ours.correct).over(full.accuracy),
    }
    measurements |= {
        f"points over fastv at {b:.0%}": points(answered[f"fastervlm {b:.4g}"], answered[same[b]])
        for b in same
    }
    return study.lab.outcome(
        (f"FasterVLM at {b:.4g} of the tokens", f"random selection at {b:.4g}"),
        ours,
        random,
        full,
        measurements,
        answered,
    )
