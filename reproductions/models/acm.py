"""ACM: does choosing how many learners each token runs beat giving every token the same number, at equal cost?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.images.fashion_mnist import FashionMNIST, load_fashion_mnist
from tokenry.models.adaptive.acm.conversion import Converted, convert
from tokenry.models.adaptive.acm.layer import ACM, AcmConfig, RandomGate
from tokenry.models.adaptive.acm.training import EndToEnd, GatePretraining, ModuleDistillation
from tokenry.models.adaptive.conditional import compute_map
from tokenry.train.loop import Batch, Figures, LoopSettings, Objective

_SIDE, _PATCH = 32, 4
_AT_ONCE = 250  # pictures
_BASE, _RANDOM = "base, trained on as long", "random choices, as often"


def experiment(study: Study) -> Outcome:
    """Train a ViT, split its feed-forward layers, train to three budgets; against fixed and random choices."""
    s = study.settings
    splits = load_fashion_mnist("train"), load_fashion_mnist("test")
    train_on, test = _pictures(splits[0]), _pictures(splits[1], s["measured_pictures"])
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


def _run(study: Study, seed: int, train_on: _Pictures, test: _Pictures) -> _Run:
    """All arms of one seed."""
    s = study.settings
    torch.manual_seed(seed)
    model = _vit(s)
    batches = _Batches(train_on, s["batch"], seed)

    def schedule(phase: str) -> LoopSettings:
        steps = s[f"{phase}_steps"]
        return LoopSettings(steps=steps, lr=s[f"{phase}_lr"], warmup=max(1, steps // 20), seed=seed)

    later = _Batches(train_on, s["batch"], seed + 1000)

    def end_to_end(start: Converted, target: float, name: str, phase: str = "end_to_end") -> Converted:
        own = copy.deepcopy(start)  # several go on from the same phases
        gates = {f"model.{path}.gate.": s["gate_lr_scale"] for path in own.acms}
        plan = replace(schedule(phase), lr_scale=gates)
        study.train(EndToEnd(own, target), later, plan, f"{name}-{seed}")
        return own

    study.train(_Classification(model), batches, schedule("base"), f"base-{seed}")
    longer = copy.deepcopy(model)
    study.train(_Classification(longer), later, schedule("end_to_end"), f"longer-{seed}")
    scores = {
        "base, as converted": _Score(_accuracy(model, test), 1.0),
        _BASE: _Score(_accuracy(longer, test), 1.0),
    }
    converted = convert(model, AcmConfig(learners=s["learners"]))
    study.train(ModuleDistillation(converted), batches, schedule("distillation"), f"distillation-{seed}")
    study.train(GatePretraining(converted), batches, schedule("gates"), f"gates-{seed}")
    headline = end_to_end(converted, s["headline"], f"budget-{s['headline']}")
    scores[f"ACM, budget {s['headline']}"] = _score(headline, test)
    for target in s["other_targets"]:
        trained = end_to_end(headline, target, f"budget-{target}", "other_budgets")
        scores[f"ACM, budget {target}"] = _score(trained, test)
    with headline.with_gates(_as_often(headline, test, seed)):
        scores[_RANDOM] = _score(headline, test)
    with converted.forced(_fixed(s)):
        same = end_to_end(converted, s["headline"], f"fixed-{_fixed(s)}")
    scores[f"{_fixed(s)} learners for every token"] = _score(same, test)
    for k in range(1, s["learners"] + 1):
        with converted.forced(k):
            scores[f"{k} learners for every token, phase 1 only"] = _score(converted, test)
    table = converted.costs
    costs = {"layers replaced": table.full, "all learners": table.highest, "gates": table.overhead}
    return _Run(scores, _objects_over_blank(headline, test), costs)


@dataclass(frozen=True)
class _Run:
    """What one seed gave."""

    scores: Mapping[str, _Score]
    objects_over_blank: float
    costs: Mapping[str, int]


@dataclass(frozen=True)
class _Score:
    """Accuracy, and share of the learners that was executed."""

    accuracy: float
    share: float


class _Classification(Objective):
    """The base model's own training."""

    def __init__(self, model: ViTForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        loss = self.model(**batch).loss
        return loss, {"nats": loss.detach()}


@dataclass(frozen=True)
class _Pictures:
    """Pictures from 0 to 1 with a black border, and their classes."""

    pixels: Float[Tensor, "n 1 32 32"]
    labels: Int[Tensor, " n"]

    def parts(self) -> Iterator[tuple[Float[Tensor, "b 1 32 32"], Int[Tensor, " b"]]]:
        """As many as are measured at once."""
        return zip(self.pixels.split(_AT_ONCE), self.labels.split(_AT_ONCE), strict=True)


@dataclass(frozen=True)
class _Batches:
    """Pictures drawn at random: a function of the step."""

    pictures: _Pictures
    size: int
    seed: int

    def __call__(self, step: int) -> Batch:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randint(len(self.pictures.labels), (self.size,), generator=generator)
        return {"pixel_values": self.pictures.pixels[rows], "labels": self.pictures.labels[rows]}


def _pictures(split: FashionMNIST, count: int | None = None) -> _Pictures:
    pixels = torch.from_numpy(split.images[:count]).float()[:, None] / 255
    border = (_SIDE - pixels.shape[-1]) // 2
    return _Pictures(F.pad(pixels, (border,) * 4), torch.from_numpy(split.labels[:count]).long())


def _vit(s: Any) -> ViTForImageClassification:
    return ViTForImageClassification._from_config(
        ViTConfig(
            hidden_size=s["width"],
            intermediate_size=4 * s["width"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            image_size=_SIDE,
            patch_size=_PATCH,
            num_channels=1,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        attn_implementation="eager",  # the backward pass of torch's fused attention is slow on a CPU
    )


def _fixed(s: Any) -> int:
    """Learners that cost the headline budget if every token runs them."""
    return round(s["headline"] * s["learners"])


@torch.no_grad()
def _accuracy(model: Any, test: _Pictures) -> float:
    model.eval()
    right = 0
    for pixels, labels in test.parts():
        with torch.autocast("cpu", torch.bfloat16):
            right += int((model(pixels).logits.argmax(-1) == labels).sum())
    return right / len(test.labels)


def _score(converted: Converted, test: _Pictures) -> _Score:
    with converted.watch() as watched:
        accuracy = _accuracy(converted.model, test)
    table = converted.costs
    return _Score(accuracy, (watched.executed(table) - table.overhead) / table.highest)


def _as_often(converted: Converted, test: _Pictures, seed: int) -> Callable[[str, ACM], RandomGate]:
    """Gates that choose as often as the trained ones do, module by module, but do not look."""
    with converted.watch() as watched:
        _accuracy(converted.model, test)
    return lambda name, acm: RandomGate(watched.counts[name] / watched.counts[name].sum(), seed)


@torch.no_grad()
def _objects_over_blank(converted: Converted, test: _Pictures) -> float:
    """Mean computation on patches that are mostly clothes, over that on patches that are all black."""
    converted.model.eval()
    spent, lit = [], []
    for pixels, _ in test.parts():
        with converted.watch() as watched, torch.autocast("cpu", torch.bfloat16):
            converted.model(pixels)
        spent.append(
            compute_map(watched.choices, converted.costs)[:, 1:]
        )  # without the token of the whole picture
        lit.append(F.avg_pool2d((pixels > 0).float(), _PATCH).flatten(1))
    shares, covered = torch.cat(spent), torch.cat(lit)
    return float(shares[covered > 0.5].mean()) / max(float(shares[covered == 0].mean()), 1e-9)
