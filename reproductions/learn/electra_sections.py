"""ELECTRA: manual pages, and learning their section from few labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from tokenry.bench.reproduce import Study
from tokenry.data.text.manpages import ManPage, each_manpage
from tokenry.text.wordpiece import train_wordpiece
from tokenry.train.classification import TextClassification, linear_probe
from tokenry.train.loop import Batch, LoopSettings
from tokenry.train.masked_lm import as_batch
from tokenry.train.rows import EncodedRows, SpecialIds, encode, pack, rows_of

SECTIONS = ("2", "3", "7", "other")


@dataclass(frozen=True)
class Data:
    """Rows to pre-train on, and descriptions with their section."""

    ids: SpecialIds
    vocabulary: int
    rows: EncodedRows
    described: EncodedRows
    labels: torch.Tensor


def load(settings: Mapping[str, Any]) -> Data:
    """Encode the manual pages; a page's section is told from the beginning of its DESCRIPTION alone."""
    with_text = (page for page in each_manpage("en") if page.description)
    pages = list(islice(with_text, settings["pages"]))
    texts = [page.text for page in pages]
    tokenizer = train_wordpiece(texts, settings["vocabulary"])
    ids, length = SpecialIds.of(tokenizer), settings["length"]
    described = rows_of([[x] for x in encode(tokenizer, [page.description for page in pages])], length, ids)
    labels = torch.tensor([_section(page) for page in pages])
    return Data(ids, len(tokenizer), pack(encode(tokenizer, texts), length, ids), described, labels)


def _section(page: ManPage) -> int:
    name = page.section[0] if page.section[0] in SECTIONS else "other"
    return SECTIONS.index(name)


def draw(labels: torch.Tensor, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pages to learn sections from, and all others."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return order[:size], order[size:]


def few_labels(rows: EncodedRows, labels: torch.Tensor, size: int, seed: int) -> Callable[[int], Batch]:
    """Step -> a batch of labelled texts."""

    def batch(step: int) -> Batch:
        index = torch.from_numpy(np.random.default_rng((seed, step)).permutation(len(rows))[:size])
        return as_batch(rows[index]) | {"labels": labels[index]}

    return batch


@torch.no_grad()
def judged(
    model: TextClassification, rows: EncodedRows, give: Callable[[Batch], torch.Tensor]
) -> torch.Tensor:
    """Logits or features of all rows."""
    model.eval()
    parts = torch.arange(len(rows)).split(128)
    return torch.cat([give(as_batch(rows[part])) for part in parts])


def probe_and_tune(
    study: Study, data: Data, encoder: Callable[[], Any], name: str, seed: int
) -> tuple[float, float]:
    """Accuracy in percent on unseen pages: of a linear probe, and after fine-tuning with the same labels."""
    settings = study.settings["tuning"]
    learn, test = draw(data.labels, settings["labels"], seed)
    index, rest = torch.from_numpy(learn), torch.from_numpy(test)
    torch.manual_seed(seed)
    model = TextClassification(encoder(), len(SECTIONS), pooling="mean")
    features = judged(model, data.described, model.features)
    probed = linear_probe(features[index], data.labels[index], features[rest])
    loop = LoopSettings(steps=settings["steps"], lr=settings["lr"], warmup=settings["steps"] // 10, seed=seed)
    batches = few_labels(data.described[index], data.labels[index], settings["batch"], seed)
    tuned = study.train(model, batches, loop, f"{name}-tuned-{seed}")
    said = judged(tuned, data.described[rest], tuned.logits).argmax(1)
    right = [100 * float((x == data.labels[rest]).float().mean()) for x in (probed, said)]
    return right[0], right[1]
