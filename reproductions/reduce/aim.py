"""AIM: do merging before the language model and pruning inside it preserve accuracy at a third of the FLOPs?"""

from __future__ import annotations

from reproductions.reduce.arms import fastv_at, random_tokens
from tokenry.bench.reproduce import Arms, Measurement, Outcome, Study, points
from tokenry.reduce.aim import AIM


def experiment(study: Study) -> Outcome:
    """One round of merging and the pruning schedule, each alone and together, against FastV at the same FLOPs."""
    s = study.settings
    arms: Arms = {
        "full": [()],
        "aim": [(AIM(budget=s["budget"], start=s["start"], end=s["end"]),)],
        "merging alone": [(AIM(budget=s["budget"], start=None),)],
        "pruning alone": [(AIM(budget=1_000_000, start=s["start"], end=s["end"]),)],
        f"random {s['budget']:.4g}": random_tokens(study, s["budget"]),
    }
    answered = study.ask(arms)
    full, ours = answered["full"], answered["aim"]
    n = int(full.counts[0, 0])
    method = fastv_at(study.lab, study.lab.visual_flops(ours.counts), s["fastv_layer"], n)
    answered |= study.ask({"fastv at the same FLOPs": [(method,)]})
    fastv = answered["fastv at the same FLOPs"]
    measurements = {
        "points lost": points(full, ours),
        "share of flops": Measurement(study.lab.share_of_flops(ours, full, visual=True)),
        "points over fastv": points(ours, fastv),
    }
    return study.lab.outcome(
        ("AIM", f"FastV, K = {method.layer}, {method.budget} tokens, at no fewer FLOPs"),
        ours,
        fastv,
        full,
        measurements,
        answered,
        details={"tokens by layer": {name: _by_layer(found.counts) for name, found in answered.items()}},
    )


def _by_layer(counts: object) -> list[float]:
    return [round(float(v), 1) for v in counts.mean(0)]  # type: ignore[attr-defined]
