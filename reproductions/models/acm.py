"""ACM: does choosing how many learners each token runs beat giving every token the same number, at equal cost?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from reproductions.models.acm_measuring import Score, as_often, measure_accuracy, objects_over_blank, score_of
from reproductions.models.acm_pictures import (
    Classification,
    PictureBatches,
    Pictures,
    pictures_of,
    vit,
)
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.images.fashion_mnist import load_fashion_mnist
from tokenry.models.adaptive.acm.conversion import Converted, convert
from tokenry.models.adaptive.acm.layer import AcmConfig
from tokenry.models.adaptive.acm.training import EndToEnd, GatePretraining, ModuleDistillation
from tokenry.train.loop import LoopSettings

_BASE, _RANDOM = "base, trained on as long", "random choices, as often"


def experiment(study: Study) -> Outcome:
    """Train a ViT, split its feed-forward layers, train to three budgets; against fixed and random choices."""
    s = study.settings
    splits = load_fashion_mnist("train"), load_fashion_mnist("test")
    train_on, test = pictures_of(splits[0]), pictures_of(splits[1], s["measured_pictures"])
    runs = [_run(study, seed, train_on, test) for seed in study.seeds]
    headline, fixed = f"ACM, budget {s['headline']}", f"{_fixed(s)} learners for every token"

    def accuracies(name: str) -> list[float]:
        return [run.scores[name].accuracy for run in runs]

    def over(name: str) -> Measurement:
        return Measurement.of([a - b for a, b in zip(accuracies(headline), accuracies(name), strict=True)])

    return Outcome(
        metric="accuracy on Fashion-MNIST test pictures",
        ours=Arm.of(f"a gate chooses for each token, budget {s['headline']}", tuple(accuracies(headline))),
        baseline=Arm.of(
            f"{_fixed(s)} of {s['learners']} learners for every token, trained alike",
            tuple(accuracies(fixed)),
        ),
        measurements={
            "accuracy over the same for all": over(fixed),
            "accuracy over random choices": over(_RANDOM),
            "share of the base's accuracy": Measurement.of(
                [a / b for a, b in zip(accuracies(headline), accuracies(_BASE), strict=True)]
            ),
            "computation on objects over blank": Measurement.of([run.objects_over_blank for run in runs]),
            "computation at the headline budget": Measurement.of(
                [run.scores[headline].share for run in runs]
            ),
        },
        tables={
            "accuracy and computation": {
                name: {
                    "accuracy": round(Measurement.of(accuracies(name)).value, 4),
                    "share of learners executed": round(
                        Measurement.of([run.scores[name].share for run in runs]).value, 3
                    ),
                }
                for name in runs[0].scores
            }
        },
        details={"multiply-adds per token": dict(runs[0].costs)},
        data=tuple(p for p in (splits[0].provenance,) if p is not None),
    )


def _run(study: Study, seed: int, train_on: Pictures, test: Pictures) -> _Run:
    """All arms of one seed."""
    s = study.settings
    torch.manual_seed(seed)
    model = vit(s)
    batches = PictureBatches(train_on, s["batch"], seed)

    def schedule(phase: str) -> LoopSettings:
        steps = s[f"{phase}_steps"]
        return LoopSettings(steps=steps, lr=s[f"{phase}_lr"], warmup=max(1, steps // 20), seed=seed)

    later = PictureBatches(train_on, s["batch"], seed + 1000)

    def end_to_end(start: Converted, target: float, name: str, phase: str = "end_to_end") -> Converted:
        own = copy.deepcopy(start)  # several go on from the same phases
        gates = {f"model.{path}.gate.": s["gate_lr_scale"] for path in own.acms}
        plan = replace(schedule(phase), lr_scale=gates)
        study.train(EndToEnd(own, target), later, plan, f"{name}-{seed}")
        return own

    study.train(Classification(model), batches, schedule("base"), f"base-{seed}")
    longer = copy.deepcopy(model)
    study.train(Classification(longer), later, schedule("end_to_end"), f"longer-{seed}")
    scores = {
        "base, as converted": Score(measure_accuracy(model, test), 1.0),
        _BASE: Score(measure_accuracy(longer, test), 1.0),
    }
    converted = convert(model, AcmConfig(learners=s["learners"]))
    study.train(ModuleDistillation(converted), batches, schedule("distillation"), f"distillation-{seed}")
    study.train(GatePretraining(converted), batches, schedule("gates"), f"gates-{seed}")
    headline = end_to_end(converted, s["headline"], f"budget-{s['headline']}")
    scores[f"ACM, budget {s['headline']}"] = score_of(headline, test)
    for target in s["other_targets"]:
        trained = end_to_end(headline, target, f"budget-{target}", "other_budgets")
        scores[f"ACM, budget {target}"] = score_of(trained, test)
    with headline.with_gates(as_often(headline, test, seed)):
        scores[_RANDOM] = score_of(headline, test)
    with converted.forced(_fixed(s)):
        same = end_to_end(converted, s["headline"], f"fixed-{_fixed(s)}")
    scores[f"{_fixed(s)} learners for every token"] = score_of(same, test)
    for k in range(1, s["learners"] + 1):
        with converted.forced(k):
            scores[f"{k} learners for every token, phase 1 only"] = score_of(converted, test)
    table = converted.costs
    costs = {"layers replaced": table.full, "all learners": table.highest, "gates": table.overhead}
    return _Run(scores, objects_over_blank(headline, test), costs)


@dataclass(frozen=True)
class _Run:
    """What one seed gave."""

    scores: Mapping[str, Score]
    objects_over_blank: float
    costs: Mapping[str, int]


def _fixed(s: Any) -> int:
    """Learners that cost the headline budget if every token runs them."""
    return round(s["headline"] * s["learners"])
