"""AIM: do merging before the language model and pruning inside it preserve accuracy at a third of the FLOPs?"""

from __future__ import annotations

from tokenry.bench.reproduce.figure import Figure
from tokenry.bench.reproduce.findings import Findings, Trial
from tokenry.bench.reproduce.lab import Arms
from tokenry.bench.reproduce.sheet import points
from tokenry.reduce.aim import AIM


def experiment(trial: Trial) -> Findings:
    """One round of merging and the pruning schedule, each alone and together, against FastV at the same FLOPs."""
    s = trial.settings
    arms: Arms = {
        "full": [()],
        "aim": [(AIM(budget=s["budget"], start=s["start"], end=s["end"]),)],
        "merging alone": [(AIM(budget=s["budget"], start=None),)],
        "pruning alone": [(AIM(budget=1_000_000, start=s["start"], end=s["end"]),)],
        f"random {s['budget']:.4g}": trial.random(s["budget"]),
    }
    sheets = trial.ask(arms)
    full, ours = sheets["full"], sheets["aim"]
    n = int(full.counts[0, 0])
    method = trial.lab.fastv_at(trial.lab.visual_flops(ours.counts), s["fastv_layer"], n)
    sheets |= trial.ask({"fastv at the same FLOPs": [(method,)]})
    fastv = sheets["fastv at the same FLOPs"]
    figures = {
        "points lost": points(full, ours),
        "share of flops": Figure(trial.lab.share_of_flops(ours, full, visual=True)),
        "points over fastv": points(ours, fastv),
    }
    return Findings(
        ("AIM", f"FastV, K = {method.layer}, {method.budget} tokens, at no fewer FLOPs"),
        ours,
        fastv,
        full,
        figures,
        sheets,
        details={"tokens by layer": {name: _by_layer(sheet.counts) for name, sheet in sheets.items()}},
        notes=(
            "Not run: the video half of the claim (8 frames at a quarter of the tokens against 2 full frames). The "
            "embedded model answers questions about single pictures; it was not trained on video.",
            "Patches kept are those that reach the last layer; AIM's schedule leaves none there, by design.",
        ),
    )


def _by_layer(counts: object) -> list[float]:
    return [round(float(v), 1) for v in counts.mean(0)]  # type: ignore[attr-defined]
