"""DupMAE's representation of a text: a dense part from [CLS], a sparse one from the other tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

_HEAD_WEIGHTS, _HEAD_CONFIG = "retrieval.safetensors", "retrieval.json"
_CHUNK = 512  # documents whose sparse parts are spread out at a time


@dataclass(frozen=True)
class Representation:
    """Texts, ready to be compared.

    Attributes:
        dense: from [CLS].
        values, indices: the largest entries of the bag of words, by vocabulary id; at least 0.
    """

    dense: Float[Tensor, "b d"]
    values: Float[Tensor, "b k"]
    indices: Int[Tensor, "b k"]

    def __len__(self) -> int:
        return len(self.dense)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join representations of the same kind."""
        return cls(*(torch.cat([getattr(p, n) for p in parts]) for n in ("dense", "values", "indices")))


def spread(part: Representation, vocabulary: int) -> Float[Tensor, "b v"]:
    """The sparse part with its zeros."""
    return part.values.new_zeros(len(part), vocabulary).scatter(1, part.indices, part.values)


def sparse_scores(
    queries: Representation, documents: Representation, vocabulary: int
) -> Float[Tensor, "q d"]:
    """Dot products of the sparse parts: only entries that both have count."""
    asked = spread(queries, vocabulary)
    parts = [
        Representation(
            documents.dense[at : at + _CHUNK],
            documents.values[at : at + _CHUNK],
            documents.indices[at : at + _CHUNK],
        )
        for at in range(0, len(documents), _CHUNK)
    ]
    return torch.cat([asked @ spread(part, vocabulary).T for part in parts], dim=1)


class DupmaeEncoder(nn.Module):
    """The retrieval representation of RetroMAE v2 / DupMAE (arXiv 2211.08769, 2305.02564) on a BERT encoder.

    The dense part is [CLS]'s vector through a linear map (768 -> 384 in the paper); the sparse part is the largest
    logit each vocabulary entry has over the positions behind [CLS], negative ones 0, of which the ``entries`` largest
    are kept. Two texts are compared by the sum of both dot products. The paper describes this; it is not in its
    published code.

    Args:
        model: an encoder with its masked-language-modelling head, from
            `tokenry.embed.dupmae.training.DupmaeObjective` or not.
        dense: width of the dense part; None takes [CLS]'s vector as it is, which needs no fine-tuning.
        entries: of the sparse part, at most the vocabulary; 0 leaves it out.
        sparse_weight: of the sparse dot product; 1 in the paper. Before a model has learned much, all texts share large
            entries whose products drown the rest: fine-tuning then needs a small weight to get anywhere.
    """

    def __init__(
        self,
        model: BertForMaskedLM,
        *,
        dense: int | None = 384,
        entries: int = 384,
        sparse_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if sparse_weight <= 0:
            raise InputError(
                f"sparse_weight must be positive, got {sparse_weight}: entries=0 leaves the part out."
            )
        if entries < 0 or (dense is not None and dense < 1):
            raise InputError(
                f"A representation needs a positive width, got dense={dense} and entries={entries}"
            )
        self.model = model
        self.entries = min(entries, model.config.vocab_size)
        self.dense, self.sparse_weight = dense, sparse_weight
        width = model.config.hidden_size
        self.projection = nn.Identity() if dense is None else nn.Linear(width, dense, bias=False)

    def forward(
        self, ids: Int[Tensor, "b n"], mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"]
    ) -> Representation:
        """Represent texts.

        Args:
            ids: ``[CLS] text [SEP]``, padded.
            mask: 1 where there is text.
        """
        hidden = self.model.bert(ids, attention_mask=mask).last_hidden_state
        dense = self.projection(hidden[:, 0])
        if not self.entries:
            return Representation(dense, dense.new_zeros(len(ids), 0), ids.new_zeros(len(ids), 0))
        logits = self.model.cls(hidden[:, 1:])
        # Zero is also what padding gives: no entry is below it.
        largest = logits.masked_fill(~mask[:, 1:, None].bool(), 0.0).amax(1).clamp(min=0.0)
        values, indices = largest.topk(self.entries, dim=1)
        return Representation(dense, values, indices)

    def score(self, queries: Representation, documents: Representation) -> Float[Tensor, "q d"]:
        """Every query with every document: dense plus sparse dot product."""
        scores = queries.dense.float() @ documents.dense.float().T
        if not self.entries:
            return scores
        return scores + self.sparse_weight * sparse_scores(queries, documents, self.model.config.vocab_size)

    @torch.no_grad()
    def encode(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        *,
        length: int = 512,
        batch: int = 64,
    ) -> Representation:
        """Represent texts given as strings, without gradient, in the order given.

        Args:
            tokenizer: of the model.
            texts: at least one.
            length: texts are cut to so many tokens.
            batch: texts at a time; ones of similar length are encoded together.

        Raises:
            InputError: if there are no texts.
        """
        if not texts:
            raise InputError("There are no texts to encode.")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        parts = list(self._encoded(tokenizer, [texts[i] for i in order], length, batch))
        joined = Representation.cat(parts)
        back = torch.tensor(order, device=joined.dense.device).argsort()
        return Representation(joined.dense[back], joined.values[back], joined.indices[back])

    def _encoded(
        self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], length: int, batch: int
    ) -> Iterator[Representation]:
        device = next(self.model.parameters()).device
        for at in range(0, len(texts), batch):
            made = tokenizer(
                list(texts[at : at + batch]),
                truncation=True,
                max_length=length,
                padding=True,
                return_tensors="pt",
            ).to(device)
            yield self(made["input_ids"], made["attention_mask"])

    def settings(self) -> dict[str, int | float | None]:
        """What the encoder was made with, beside the model."""
        return {"dense": self.dense, "entries": self.entries, "sparse_weight": self.sparse_weight}

    def save_pretrained(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> Path:
        """Write an ordinary BERT folder with the linear map beside it; complete or not there at all.

        Raises:
            InputError: if it cannot be written (a full disk); what was there before stays.
        """
        folder = Path(folder)
        with whole_folder(folder) as scratch:
            self.model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            (scratch / _HEAD_CONFIG).write_text(json.dumps(self.settings()))
            save_file(self.projection.state_dict(), scratch / _HEAD_WEIGHTS)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> tuple[Self, PreTrainedTokenizerBase]:
        """Read what `save_pretrained` wrote: the encoder, in evaluation mode, and its tokenizer.

        Raises:
            InputError: if the folder holds no such encoder.
        """
        folder = Path(folder)
        try:
            settings = json.loads((folder / _HEAD_CONFIG).read_text())
            weights = load_file(folder / _HEAD_WEIGHTS)
        except OSError as error:
            raise InputError(
                f"{folder} holds no retrieval encoder ({error}): build one with DupmaeEncoder(model) and save it."
            ) from error
        source = Checkpoint(str(folder))
        encoder = cls(source.model(BertForMaskedLM), **settings)
        encoder.projection.load_state_dict(weights)
        return encoder.eval(), source.tokenizer()
