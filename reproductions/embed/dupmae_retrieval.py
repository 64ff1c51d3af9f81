"""DupMAE: manual pages found by what they are said to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import BertForMaskedLM

from tokenry.data.text.manpages import each_manpage
from tokenry.embed.dupmae.encoder import DupmaeEncoder, Representation
from tokenry.text.wordpiece import train_wordpiece
from tokenry.train.loop import Batch
from tokenry.train.rows import EncodedRows, SpecialIds, encode, pack, rows_of


@dataclass(frozen=True)
class Data:
    """Rows to pre-train on; queries (what NAME says) and documents (the beginning of DESCRIPTION), row by row."""

    ids: SpecialIds
    vocabulary: int
    rows: EncodedRows
    queries: EncodedRows
    documents: EncodedRows


def load(settings: Mapping[str, Any]) -> Data:
    """Encode the manual pages; no NAME section is pre-trained on."""
    described = (p for p in each_manpage("en") if p.description and p.summary)
    pages = list(islice(described, settings["pages"]))
    texts = [page.text.split("\n\n", 2)[-1] for page in pages]  # without the heading NAME and its line
    tokenizer = train_wordpiece(texts, settings["vocabulary"])
    ids, length = SpecialIds.of(tokenizer), settings["length"]
    # One segment a row, as in the paper, and no row shorter than the text asks for.
    rows = pack(encode(tokenizer, texts), length, ids, single=1.0, shorter=0.0)
    queries = rows_of([[x] for x in encode(tokenizer, [page.summary for page in pages])], length, ids)
    documents = rows_of([[x] for x in encode(tokenizer, [page.description for page in pages])], length, ids)
    return Data(ids, len(tokenizer), rows, queries, documents)


class Pairs:
    """Step -> a batch of queries with their documents."""

    def __init__(self, data: Data, known: np.ndarray, size: int, seed: int) -> None:
        self.data, self.known, self.size, self.seed = data, known, size, seed

    def __call__(self, step: int) -> Batch:
        picked = np.random.default_rng((self.seed, step)).permutation(len(self.known))[: self.size]
        index = torch.from_numpy(self.known[picked])
        queries, documents = self.data.queries[index], self.data.documents[index]
        return {
            "query_ids": queries.ids,
            "query_mask": queries.mask,
            "document_ids": documents.ids,
            "document_mask": documents.mask,
        }


@torch.no_grad()
def represent(encoder: DupmaeEncoder, rows: EncodedRows) -> Representation:
    """All rows, in order."""
    encoder.eval()
    parts = [rows[part] for part in torch.arange(len(rows)).split(64)]
    return Representation.cat([encoder(part.ids, part.mask) for part in parts])


def mrr(scores: torch.Tensor, own: torch.Tensor, depth: int = 10) -> float:
    """Mean reciprocal rank of each query's own document among all, 0 below ``depth``; in percent.

    A document that scores the same counts as better, so that equal scores for all earn nothing.
    """
    best = scores.gather(1, own[:, None])
    rank = (scores >= best).sum(1)
    return 100 * float(torch.where(rank <= depth, 1 / rank, 0.0).mean())


def searched(encoder: DupmaeEncoder, data: Data, asked: torch.Tensor) -> float:
    """MRR@10 of held-out queries over the documents of all pages."""
    queries, documents = represent(encoder, data.queries[asked]), represent(encoder, data.documents)
    return mrr(encoder.score(queries, documents), asked)


def zero_shot(
    model: BertForMaskedLM, data: Data, asked: torch.Tensor, sparse_weight: float
) -> dict[str, float]:
    """MRR@10 before fine-tuning: of [CLS] alone, and with the sparse part of 384 words alone."""
    encoder = DupmaeEncoder(model, dense=None, sparse_weight=sparse_weight)
    queries, documents = represent(encoder, data.queries[asked]), represent(encoder, data.documents)
    both = encoder.score(queries, documents)
    dense = queries.dense @ documents.dense.T
    found = {"zero-shot [CLS]": dense, "zero-shot words": both - dense, "zero-shot both": both}
    return {name: mrr(scores, asked) for name, scores in found.items()}
