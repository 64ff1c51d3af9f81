"""How long a training step takes on fewer tokens."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenry.bench.reproduce import VqaLab
from tokenry.data.questions.examples import load_scenes
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.reduce import Reducer, reduced

_IGNORED = -100


@dataclass(frozen=True)
class StepTimes:
    """Seconds of training steps, taken in turns.

    Attributes:
        reduced, full: forward and backward on fewer tokens, and on all.
    """

    reduced: tuple[float, ...]
    full: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of one to median of the other."""
        return statistics.median(self.reduced) / statistics.median(self.full)

    def to_json(self) -> dict[str, Any]:
        """Medians and ranges."""
        return {
            name: {
                "median ms": round(1000 * statistics.median(times), 1),
                "range ms": [round(1000 * min(times), 1), round(1000 * max(times), 1)],
            }
            for name, times in (("reduced", self.reduced), ("full", self.full))
        } | {"ratio of medians": round(self.ratio, 4), "pairs of steps": len(self.full)}


def step_times(lab: VqaLab, method: Reducer, seed: int, *, steps: int, warmup: int, batch: int) -> StepTimes:
    """Time forward and backward of a batch, with and without a method, in turns.

    The encoder is frozen and runs in every step, as in the authors' training; the rest of the model learns. A copy of
    the lab's model is used.

    Args:
        lab: model and processor.
        method: what reduces.
        seed: which questions.
        steps: measured pairs of steps.
        warmup: pairs before them.
        batch: questions per step.
    """
    model: Any = copy.deepcopy(lab.model).train()
    tower = lab.host.tower
    frozen = {name for name, module in lab.model.named_modules() if module is tower}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(name.startswith(f"{f}.") for f in frozen))
    inputs = _training_batch(lab, seed, batch)
    times: dict[bool, list[float]] = {True: [], False: []}
    for step in range(warmup + steps):
        for with_method in (True, False) if step % 2 else (False, True):
            model.zero_grad()
            started = time.perf_counter()
            with reduced(model, method) if with_method else nullcontext():
                model(**inputs).loss.backward()
            if step >= warmup:
                times[with_method].append(time.perf_counter() - started)
    return StepTimes(tuple(times[True]), tuple(times[False]))


def _training_batch(lab: VqaLab, seed: int, batch: int) -> dict[str, Tensor]:
    """Questions with answers, labelled on the answers alone."""
    examples = load_scenes("test", batch, seed)
    tokenizer = lab.processor.tokenizer
    texts = [f"{PROMPT.format(question=e.question)} {e.answer}{tokenizer.eos_token}" for e in examples]
    inputs = lab.processor(
        images=[e.image for e in examples], text=texts, padding=True, padding_side="left", return_tensors="pt"
    )
    labels = torch.full_like(inputs["input_ids"], _IGNORED)
    for row, example in enumerate(examples):
        n = len(tokenizer(f"{example.answer}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"])
        labels[row, -n:] = inputs["input_ids"][row, -n:]
    return {**inputs.to(lab.model.device), "labels": labels.to(lab.model.device)}
