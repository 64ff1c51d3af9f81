"""ACM: accuracy, learners executed, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from reproductions.models.acm_pictures import (
    PATCH,
    Pictures,
)
from tokenry.models.adaptive.acm.conversion import Converted
from tokenry.models.adaptive.acm.layer import ACM, RandomLearnerGate
from tokenry.models.adaptive.conditional import compute_map


@dataclass(frozen=True)
class Score:
    """Accuracy, and share of the learners that was executed."""

    accuracy: float
    share: float


@torch.no_grad()
def measure_accuracy(model: Any, test: Pictures) -> float:
    """Share of test pictures whose class a model tells."""
    model.eval()
    right = 0
    for pixels, labels in test.parts():
        with torch.autocast("cpu", torch.bfloat16):
            right += int((model(pixels).logits.argmax(-1) == labels).sum())
    return right / len(test.labels)


def score_of(converted: Converted, test: Pictures) -> Score:
    """Accuracy of a converted model, and how much of it was executed."""
    with converted.watch() as watched:
        accuracy = measure_accuracy(converted.model, test)
    table = converted.costs
    return Score(accuracy, (watched.executed(table) - table.overhead) / table.highest)


def as_often(converted: Converted, test: Pictures, seed: int) -> Callable[[str, ACM], RandomLearnerGate]:
    """Gates that choose as often as the trained ones do, module by module, but do not look."""
    with converted.watch() as watched:
        measure_accuracy(converted.model, test)
    return lambda name, acm: RandomLearnerGate(watched.counts[name] / watched.counts[name].sum(), seed)


@torch.no_grad()
def objects_over_blank(converted: Converted, test: Pictures) -> float:
    """Mean computation on patches that are mostly clothes, over that on patches that are all black."""
    converted.model.eval()
    spent, lit = [], []
    for pixels, _ in test.parts():
        with converted.watch() as watched, torch.autocast("cpu", torch.bfloat16):
            converted.model(pixels)
        spent.append(
            compute_map(watched.choices, converted.costs)[:, 1:]
        )  # without the token of the whole picture
        lit.append(F.avg_pool2d((pixels > 0).float(), PATCH).flatten(1))
    shares, covered = torch.cat(spent), torch.cat(lit)
    return float(shares[covered > 0.5].mean()) / max(float(shares[covered == 0].mean()), 1e-9)
