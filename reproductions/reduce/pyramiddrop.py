"""PyramidDrop: is a pyramid of drops nearly free, better than one early drop, and faster to train?"""

from __future__ import annotations

from tokenry.bench.reproduce.controls import RandomPyramid
from tokenry.bench.reproduce.figure import Figure
from tokenry.bench.reproduce.findings import Findings, Trial
from tokenry.bench.reproduce.lab import Arms
from tokenry.bench.reproduce.sheet import points
from tokenry.bench.reproduce.training import step_times
from tokenry.reduce.pyramiddrop import PyramidDrop


def experiment(trial: Trial) -> Findings:
    """The pyramid against FastV at the same FLOPs and a random pyramid; the time of a training step."""
    s = trial.settings
    shape = {"budget": s["budget"], "layers": tuple(s["layers"]), "positions": trial.positions}
    method = PyramidDrop(**shape)
    arms: Arms = {
        "full": [()],
        "pyramiddrop": [(method,)],
        "pyramiddrop, renumbered": [(PyramidDrop(**shape | {"positions": "compact"}),)],
        "random pyramid": [(RandomPyramid(**shape, seed=seed),) for seed in s["random_seeds"]],
    }
    sheets = trial.ask(arms)
    full, ours = sheets["full"], sheets["pyramiddrop"]
    n = int(full.counts[0, 0])
    one_cut = trial.lab.fastv_at(trial.lab.visual_flops(ours.counts), s["fastv_layer"], n)
    sheets |= trial.ask({"fastv at the same FLOPs": [(one_cut,)]})
    fastv = sheets["fastv at the same FLOPs"]
    steps = step_times(trial.lab, method, trial.questions.seeds[0], **s["training"])
    figures = {
        "points lost": points(full, ours),
        "share of flops": Figure(trial.lab.share_of_flops(ours, full, visual=True)),
        "points over fastv": points(ours, fastv),
        "share of step time": Figure(steps.ratio),
    }
    return Findings(
        ("PyramidDrop", f"FastV, K = {one_cut.layer}, {one_cut.budget} tokens, at no fewer FLOPs"),
        ours,
        fastv,
        full,
        figures,
        sheets,
        details={"training step": steps.to_json()},
        notes=(
            "A training step is timed, forward and backward with labels, encoder frozen and run in every step; the "
            "paper's training curves were not repeated. In training the last token of the sequence ranks the picture "
            "(see the method's page).",
        ),
    )
