"""ELECTRA: replaced-token detection against masked language modelling at equal compute, on manual pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from reproductions.learn.electra_sections import Data, load, probe_and_tune
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.manpages import manpages_provenance
from tokenry.learn.electra import ElectraMasking, ElectraObjective, ElectraSettings, Task, electra_config
from tokenry.train.loop import Batch, LoopSettings, Objective
from tokenry.train.masked_lm import BertMasking, MaskedLanguageModelling
from tokenry.train.rows import RowBatches


def objectives(data: Data, settings: Mapping[str, Any], seed: int) -> dict[str, tuple[Objective, Any]]:
    """The arms: an objective around a fresh encoder each, all of one architecture, and how its rows are masked."""
    config = electra_config(data.vocabulary, **settings["model"], positions=settings["length"])
    electra_rows = ElectraMasking(data.ids, settings["length"])

    def electra(task: Task) -> ElectraObjective:
        torch.manual_seed(seed)
        made = ElectraSettings(task=task, share=settings["share"])
        return ElectraObjective(ElectraForPreTraining(config), made, forbidden=data.ids.special)

    torch.manual_seed(seed)
    arms: dict[str, tuple[Objective, Any]] = {
        "MLM": (MaskedLanguageModelling(ElectraForMaskedLM(config)), BertMasking(data.ids))
    }
    return arms | {name: (electra(task), electra_rows) for name, task in settings["tasks"].items()}


def encoder_of(objective: Any) -> Any:
    """What is kept of an arm."""
    holder = objective.model if isinstance(objective, MaskedLanguageModelling) else objective.discriminator
    return holder.electra


def flops(objective: Objective, batch: Batch) -> int:
    """Of one training step."""
    with FlopCounterMode(display=False) as counter:
        objective(batch)[0].backward()
    objective.zero_grad()
    return counter.get_total_flops()


def experiment(study: Study) -> Outcome:
    """Pre-train every arm with the FLOPs of the baseline, then learn sections from few labels."""
    settings, data = study.settings, load(study.settings)
    tuned: dict[str, list[float]] = {}
    probed: dict[str, list[float]] = {}
    costs: dict[str, dict[str, float]] = {}
    for seed in study.seeds:
        arms = objectives(data, settings, seed)
        step_flops = {
            name: flops(objective, RowBatches(data.rows, settings["batch"], prepare)(0))
            for name, (objective, prepare) in arms.items()
        }
        scratch = encoder_of(objectives(data, settings, seed + 1000)["MLM"][0])
        encoders: dict[str, Any] = {"from scratch": scratch}
        for name, (objective, prepare) in arms.items():
            steps = max(1, round(settings["steps"] * step_flops["MLM"] / step_flops[name]))
            loop = LoopSettings(steps=steps, lr=settings["lr"], warmup=max(1, steps // 10), seed=seed)
            batches = RowBatches(data.rows, settings["batch"], prepare, seed)
            trained = study.train(objective, batches, loop, f"{name}-{seed}")
            encoders[name] = encoder_of(trained)
            costs[name] = {"steps": steps, "GFLOPs per step": round(step_flops[name] / 1e9, 2)}
        for name, encoder in encoders.items():
            found = [
                probe_and_tune(study, data, partial(_copy, encoder), f"{name}-{seed}", 100 * seed + draw_)
                for draw_ in range(settings["tuning"]["draws"])
            ]
            probed.setdefault(name, []).append(float(np.mean([p for p, _ in found])))
            tuned.setdefault(name, []).append(float(np.mean([t for _, t in found])))
    mean = {name: float(np.mean(values)) for name, values in tuned.items()}
    return Outcome(
        metric="accuracy in % of a manual page's section, fine-tuned with few labels",
        ours=Arm.of("ELECTRA", tuple(tuned["ELECTRA"])),
        baseline=Arm.of("masked language modelling", tuple(tuned["MLM"])),
        measurements={
            "points over MLM": Measurement.of(_differences(tuned, "ELECTRA", "MLM")),
            "probe points over MLM": Measurement.of(_differences(probed, "ELECTRA", "MLM")),
            "points over from scratch": Measurement.of(_differences(tuned, "ELECTRA", "from scratch")),
        },
        tables={
            "arms": {
                name: {"fine-tuned": round(mean[name], 1), "probe": round(float(np.mean(probed[name])), 1)}
                | costs.get(name, {})
                for name in tuned
            }
        },
        data=manpages_provenance("en"),
    )


def _copy(encoder: Any) -> Any:
    """Fine-tuning changes an encoder; every draw of labels starts from the same."""
    made = type(encoder)(encoder.config)
    made.load_state_dict(encoder.state_dict())
    return made


def _differences(values: Mapping[str, Sequence[float]], ours: str, other: str) -> list[float]:
    return [a - b for a, b in zip(values[ours], values[other], strict=True)]
