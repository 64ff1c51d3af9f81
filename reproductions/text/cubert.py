"""CuBERT: finding misused variables with and without pre-training on source code."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForPreTraining

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.code_tasks import Function, Misuse, functions, variable_misuse
from tokenry.data.text.corpora import load_corpus
from tokenry.text.cubert.tokenizer import CodeTokenizer
from tokenry.text.cubert.training import (
    LineMasking,
    LinePretraining,
    MisusePointer,
    ShuffledBatches,
    code_rows,
    labelled,
    misuse_rows,
    pack_lines,
)
from tokenry.train.classification import TextClassification
from tokenry.train.loop import Batch, LoopSettings
from tokenry.train.masked_lm import BertMasking
from tokenry.train.rows import EncodedRows, RowBatches, SpecialIds


@dataclass(frozen=True)
class Data:
    """Lines to pre-train on, and functions with or without a misused variable."""

    ids: SpecialIds
    vocabulary: int
    rows: EncodedRows
    known: tuple[EncodedRows, Batch]
    held_out: tuple[EncodedRows, Batch]
    candidates: float


def load(settings: Mapping[str, Any], seed: int) -> Data:
    """Divide the standard library by file; nothing of a held-out file is trained on, nor is a function it repeats."""
    corpus = load_corpus("python", limit=settings["bytes"])
    train, test = corpus.split(settings["held_out"], seed)
    tokenizer = CodeTokenizer.train(train.documents, settings["vocabulary"])
    ids = SpecialIds.of(tokenizer.subwords)
    rows = pack_lines(tokenizer, train.documents, settings["length"], ids, seed=seed)
    known = _functions(train.documents, settings["lines"])
    copies = {function.code for function in known}
    unseen = [f for f in _functions(test.documents, settings["lines"]) if f.code not in copies]
    made = [
        _misuses(found[: settings[size]], seed) for found, size in ((known, "functions"), (unseen, "tested"))
    ]
    both = [_tensors(tokenizer, examples, settings["length"], ids) for examples in made]
    chosen = both[1][1]["candidates"].sum(1).float().mean().item()
    return Data(ids, len(tokenizer), rows, both[0], both[1], chosen)


def _functions(sources: Sequence[str], lines: Sequence[int]) -> list[Function]:
    """Distinct functions of a size, in an order of their own."""
    found = [f for source in sources for f in functions(source, lines=(lines[0], lines[1]))]
    distinct = list({function.code: function for function in found}.values())
    random.Random(0).shuffle(distinct)
    return distinct


def _misuses(found: Sequence[Function], seed: int) -> list[Misuse]:
    """Every second function gets a bug."""
    made = [variable_misuse(f, seed * 100_003 + n, bug=n % 2 == 0) for n, f in enumerate(found)]
    return [example for example in made if example is not None]


def _tensors(
    tokenizer: CodeTokenizer, examples: Sequence[Misuse], length: int, ids: SpecialIds
) -> tuple[EncodedRows, Batch]:
    return code_rows(tokenizer, examples, length, ids), misuse_rows(tokenizer, examples, length, ids)[0]


@torch.no_grad()
def accuracy(model: TextClassification, batch: Batch) -> float:
    """Share of functions classified rightly, in percent."""
    model.eval()
    parts = torch.arange(len(batch["labels"])).split(64)
    said = [model.logits({name: x[part] for name, x in batch.items()}).argmax(1) for part in parts]
    return 100 * float((torch.cat(said) == batch["labels"]).float().mean())


def experiment(study: Study) -> Outcome:
    """Classify functions with a pre-trained and with a fresh encoder; point at bugs with the pre-trained one."""
    settings = study.settings
    found: dict[str, list[float]] = {}
    candidates: list[float] = []
    rows = 0
    for seed in study.seeds:
        data = load(settings, seed)
        candidates.append(data.candidates)
        rows = len(data.rows)
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=data.vocabulary, max_position_embeddings=settings["length"], **settings["model"]
        )
        fresh = BertForPreTraining(config)
        loop = LoopSettings(**settings["training"], seed=seed)
        lines = RowBatches(data.rows, settings["batch"], LineMasking(BertMasking(data.ids)), seed)
        trained = study.train(LinePretraining(copy.deepcopy(fresh)), lines, loop, f"pre-training-{seed}")
        loop = LoopSettings(**settings["tuning"], seed=seed)
        known, unseen = (labelled(pair[0]) for pair in (data.known, data.held_out))
        for arm, model in (("pre-trained", trained.model), ("from scratch", fresh)):
            torch.manual_seed(seed)
            classifier = TextClassification(copy.deepcopy(model.bert), 2)
            batches = ShuffledBatches(known, settings["batch"], seed)
            tuned = study.train(classifier, batches, loop, f"{arm}-{seed}")
            found.setdefault(f"{arm}: accuracy", []).append(accuracy(tuned, unseen))
        torch.manual_seed(seed)
        loop = LoopSettings(**settings["pointing"], seed=seed)
        batches = ShuffledBatches(data.known[1], settings["batch"], seed)
        pointer = study.train(
            MisusePointer(copy.deepcopy(trained.model.bert)), batches, loop, f"pointer-{seed}"
        )
        for name, value in pointer.metrics(data.held_out[1]).items():
            found.setdefault(f"pointer: {name}", []).append(value)
    return _outcome(found, candidates, rows, settings)


def _outcome(
    found: Mapping[str, list[float]], candidates: Sequence[float], rows: int, settings: Mapping[str, Any]
) -> Outcome:
    ours, scratch = found["pre-trained: accuracy"], found["from scratch: accuracy"]
    # Chance: a bug is claimed, placed at random among the candidates, and repaired from one of them at random.
    over = [
        joint / (100 / chosen**2) for joint, chosen in zip(found["pointer: joint"], candidates, strict=True)
    ]
    return Outcome(
        metric="accuracy in % of telling functions with a misused variable from those without",
        ours=Arm.of("pre-trained on source code", tuple(ours)),
        baseline=Arm.of("from scratch", tuple(scratch)),
        measurements={
            "points over from scratch": Measurement.of([a - b for a, b in zip(ours, scratch, strict=True)]),
            "joint accuracy over chance": Measurement.of(over),
        },
        tables={"found": {name: {"%": round(float(np.mean(values)), 1)} for name, values in found.items()}},
        details={"candidate positions": round(float(np.mean(candidates)), 1)},
    )
