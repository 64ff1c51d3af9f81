"""PyramidDrop: is a pyramid of drops nearly free, better than one early drop, and faster to train?"""

from __future__ import annotations

from reproductions.reduce.arms import fastv_at, positions
from reproductions.reduce.controls import RandomPyramid
from reproductions.reduce.step_times import step_times
from tokenry.bench.reproduce import Arms, Measurement, Outcome, Study, points
from tokenry.reduce.pyramiddrop import PyramidDrop


def experiment(study: Study) -> Outcome:
    """The pyramid against FastV at the same FLOPs and a random pyramid; the time of a training step."""
    s = study.settings
    shape = {"budget": s["budget"], "layers": tuple(s["layers"]), "positions": positions(study)}
    method = PyramidDrop(**shape)
    arms: Arms = {
        "full": [()],
        "pyramiddrop": [(method,)],
        "pyramiddrop, renumbered": [(PyramidDrop(**shape | {"positions": "compact"}),)],
        "random pyramid": [(RandomPyramid(**shape, seed=seed),) for seed in s["random_seeds"]],
    }
    answered = study.ask(arms)
    full, ours = answered["full"], answered["pyramiddrop"]
    n = int(full.counts[0, 0])
    one_cut = fastv_at(study.lab, study.lab.visual_flops(ours.counts), s["fastv_layer"], n)
    answered |= study.ask({"fastv at the same FLOPs": [(one_cut,)]})
    fastv = answered["fastv at the same FLOPs"]
    steps = step_times(study.lab, method, study.seeds[0], **s["training"])
    measurements = {
        "points lost": points(full, ours),
        "share of flops": Measurement(study.lab.share_of_flops(ours, full, visual=True)),
        "points over fastv": points(ours, fastv),
        "share of step time": Measurement(steps.ratio),
    }
    return study.lab.outcome(
        ("PyramidDrop", f"FastV, K = {one_cut.layer}, {one_cut.budget} tokens, at no fewer FLOPs"),
        ours,
        fastv,
        full,
        measurements,
        answered,
        details={"training step": steps.to_json()},
    )
