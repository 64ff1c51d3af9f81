"""DupMAE: pre-training for retrieval against RetroMAE and masked language modelling, on manual pages."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from reproductions.embed.dupmae_retrieval import Data, Pairs, load, searched, zero_shot
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.manpages import manpages_provenance
from tokenry.embed.dupmae.encoder import DupmaeEncoder
from tokenry.embed.dupmae.training import ContrastiveRetrieval, DupmaeMasking, DupmaeObjective, DupmaeSettings
from tokenry.train.loop import LoopSettings
from tokenry.train.rows import RowBatches

ARMS: Mapping[str, DupmaeSettings] = {
    "MLM": DupmaeSettings(encoder_rate=0.15, bow_weight=0, decoder_weight=0),
    "RetroMAE": DupmaeSettings(bow_weight=0, query="retromae"),
    "DupMAE": DupmaeSettings(),
}


def experiment(study: Study) -> Outcome:
    """Pre-train three encoders with as many steps, measure them as they are, fine-tune, measure again."""
    settings, data = study.settings, load(study.settings)
    found: dict[str, dict[str, list[float]]] = {arm: {} for arm in ARMS}
    for seed in study.seeds:
        order = np.random.default_rng(seed).permutation(len(data.queries))
        held = max(2, round(settings["held_out"] * len(order)))
        asked, known = torch.from_numpy(order[:held].copy()), order[held:]
        for arm, objective in ARMS.items():
            torch.manual_seed(seed)
            config = BertConfig(
                vocab_size=data.vocabulary, max_position_embeddings=settings["length"], **settings["model"]
            )
            loop = LoopSettings(**settings["training"], seed=seed)
            rows = RowBatches(data.rows, settings["batch"], DupmaeMasking(data.ids, objective), seed)
            made = DupmaeObjective(BertForMaskedLM(config), objective)
            model = study.train(made, rows, loop, f"{arm}-{seed}").model
            values = zero_shot(model, data, asked, settings["sparse_weight"])
            values["zero-shot"] = max(values.values())
            torch.manual_seed(seed)
            encoder = DupmaeEncoder(
                copy.deepcopy(model), dense=settings["dense"], sparse_weight=settings["sparse_weight"]
            )
            tuned = ContrastiveRetrieval(encoder)
            loop = LoopSettings(**settings["tuning"], seed=seed)
            pairs = Pairs(data, known, settings["batch"], seed)
            retriever = study.train(tuned, pairs, loop, f"{arm}-{seed}-tuned").retriever
            values["fine-tuned"] = searched(retriever, data, asked)
            for name, value in values.items():
                found[arm].setdefault(name, []).append(value)
    return _outcome(found, data, settings)


def _outcome(
    found: Mapping[str, Mapping[str, list[float]]], data: Data, settings: Mapping[str, Any]
) -> Outcome:
    def ratio(ours: str, other: str, what: str) -> Measurement:
        values = zip(found[ours][what], found[other][what], strict=True)
        return Measurement.of([a / b if b else float("nan") for a, b in values])

    return Outcome(
        metric="MRR@10 in % of manual pages found by what they are said to be, after fine-tuning",
        ours=Arm.of("DupMAE", tuple(found["DupMAE"]["fine-tuned"])),
        baseline=Arm.of("masked language modelling", tuple(found["MLM"]["fine-tuned"])),
        measurements={
            "DupMAE over MLM": ratio("DupMAE", "MLM", "fine-tuned"),
            "DupMAE over RetroMAE": ratio("DupMAE", "RetroMAE", "fine-tuned"),
            "RetroMAE over MLM": ratio("RetroMAE", "MLM", "fine-tuned"),
            "zero-shot DupMAE over MLM": ratio("DupMAE", "MLM", "zero-shot"),
        },
        tables={
            "MRR@10": {
                arm: {name: round(float(np.mean(values)), 1) for name, values in figures.items()}
                for arm, figures in found.items()
            }
        },
        data=manpages_provenance("en"),
    )
