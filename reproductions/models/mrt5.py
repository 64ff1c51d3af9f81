"""MrT5: does the gate find the bytes that a task does not need?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.models.mrt5.model import MrT5Config, MrT5ForConditionalGeneration
from tokenry.models.mrt5.training import MrT5Objective
from tokenry.train.loop import Batch, LoopSettings
from tokenry.train.rate_control import PIController

_VOWELS = tuple(byte + 3 for byte in b"aeiou")
_END = 1


def experiment(study: Study) -> Outcome:
    """Vowel removal: a learnt gate, no gate and a random gate at the same rate, trained for equal steps."""
    s = study.settings
    rows: dict[str, list[dict[str, float]]] = {"learned": [], "none": [], "random": []}
    for seed in study.seeds:
        for gate, found in rows.items():
            found.append(_measured(_trained(study, gate, seed), s))
    learned, ungated, random = rows.values()

    def figure(make: Callable[[dict[str, float], dict[str, float], dict[str, float]], float]) -> Measurement:
        return Measurement.of([make(*row) for row in zip(learned, ungated, random, strict=True)])

    return Outcome(
        metric="share of sequences whose vowels are removed without a mistake",
        ours=Arm.of("learnt gate, hard deletion", tuple(row["sequences"] for row in learned)),
        baseline=Arm.of("no gate", tuple(row["sequences"] for row in ungated)),
        measurements={
            "distance from the target rate": figure(lambda a, b, c: abs(a["deleted"] - s["target"])),
            "vowels among the deleted": figure(lambda a, b, c: a["vowels among deleted"]),
            "sequence accuracy over no gate": figure(
                lambda a, b, c: a["sequences"] / max(b["sequences"], 1e-3)
            ),
            "sequence accuracy without gate": figure(lambda a, b, c: b["sequences"]),
            "byte accuracy over random gate, points": figure(lambda a, b, c: 100 * (a["bytes"] - c["bytes"])),
        },
        tables={
            "seed 0": {
                name: {key: round(v, 4) for key, v in found[0].items()} for name, found in rows.items()
            }
        },
    )


def _words(settings: Any, rows: int, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Inputs, and targets without the vowels, as ByT5 numbers bytes."""
    letters = np.random.default_rng(seed).integers(97, 123, (rows, settings["letters"])) + 3
    ids = np.concatenate([np.full((rows, 1), ord("#") + 3), letters], 1)
    vowel = np.isin(letters, _VOWELS)
    order = vowel.argsort(1, kind="stable")
    left = np.take_along_axis(np.where(vowel, -100, letters), order, 1)
    labels = np.concatenate([left, np.full((rows, 1), -100)], 1)
    labels[np.arange(rows), (~vowel).sum(1)] = _END
    return torch.from_numpy(ids), torch.from_numpy(labels)


def _trained(study: Study, gate: str, seed: int) -> MrT5Objective:
    s = study.settings

    def batches(step: int) -> Batch:
        ids, labels = _words(s, s["batch"], (seed, step))
        return {"input_ids": ids, "labels": labels}

    torch.manual_seed(seed)
    model = MrT5ForConditionalGeneration(
        MrT5Config(
            d_model=s["width"],
            d_kv=s["width"] // s["heads"],
            d_ff=2 * s["width"],
            num_heads=s["heads"],
            num_layers=s["layers"],
            num_decoder_layers=s["layers"],
            dropout_rate=0.0,
            gate=gate,
            gate_layer=s["gate_layer"],
            gate_rate=s["target"],
        )
    )
    objective = MrT5Objective(
        model,
        s["target"],
        beta=s["beta"] if gate == "learned" else 0.0,
        delay=s["delay"],
        controller=PIController(s["kp"], s["ki"]),
    )
    schedule = LoopSettings(steps=s["steps"], lr=s["lr"], warmup=max(1, s["steps"] // 20), weight_decay=0.01)
    return study.train(objective, batches, schedule, f"{gate}-{seed}")


@torch.no_grad()
def _measured(objective: MrT5Objective, settings: Any) -> dict[str, float]:
    ids, labels = _words(settings, settings["measured"], (10_000, 0))
    torch.manual_seed(0)  # of the random gate
    output = objective.model(ids, labels=labels)
    real = labels != -100
    right = (output.logits.argmax(-1) == labels) | ~real
    found = {"bytes": float(right[real].float().mean()), "sequences": float(right.all(1).float().mean())}
    if output.gates is not None:
        deleted = output.gates < objective.model.config.gate_threshold
        vowels = torch.isin(ids, torch.tensor(_VOWELS))
        found |= {
            "deleted": float(deleted.float().mean()),
            "vowels among deleted": float((deleted & vowels).sum() / deleted.sum().clamp(min=1)),
        }
    return found
