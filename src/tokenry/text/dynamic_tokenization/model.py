"""Dynamic tokenization: merging frequent neighbours of the batch in hand, for a model that was never trained so."""

from __future__ import annotations

import math
from collections import UserDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.text.dynamic_tokenization.boundaries import Boundary, check_boundary, pair_rule, segments
from tokenry.text.dynamic_tokenization.embedding_cache import LRUEmbeddingCache
from tokenry.text.dynamic_tokenization.merge_queue import MergeQueue
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett.network import Hypernetwork, MeanOfPieces, is_tied, source_rows
from tokenry.text.zett.surface import Surfaces
from tokenry.text.zett.swap import embed
from tokenry.tokens.errors import InputError, UnsupportedError

Scope = Literal["batch", "sample"]
Key = int | bytes
"""One token: an id of the model's own, or the bytes of a merged token."""


class DynamicBatch(UserDict[str, Tensor]):
    """The model's inputs for texts in merged tokens: ``model(**batch)``.

    Holds ``inputs_embeds`` [batch, length, d], ``attention_mask`` [batch, length] and, for decoders, ``position_ids``.

    Attributes:
        tokens: bytes of every token, b"" for special tokens.
        origins: for every token the index, in the model's own tokenization, of its first part.
        original_lengths: tokens of every text before merging.
        padding_side: "left" or "right".
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        tokens: list[list[bytes]],
        origins: list[list[int]],
        original_lengths: list[int],
        padding_side: str,
    ) -> None:
        super().__init__(inputs)
        self.tokens, self.origins, self.original_lengths = tokens, origins, original_lengths
        self.padding_side = padding_side

    @property
    def lengths(self) -> list[int]:
        """Tokens of every text."""
        return [len(row) for row in self.tokens]

    @property
    def saved(self) -> float:
        """Share of the tokens that merging has saved."""
        return 1 - sum(self.lengths) / sum(self.original_lengths)

    def follow(self, values: Sequence[Sequence[int]], fill: int = -100) -> Int[Tensor, "b t"]:
        """Labels (or word ids) of the model's own tokens carried over: a merged token has that of its first part.

        Args:
            values: one number for every token of the model's own tokenization.
            fill: where there is padding.
        """
        rows = [[row[i] for i in origin] for row, origin in zip(values, self.origins, strict=True)]
        return _padded([torch.tensor(row, dtype=torch.long) for row in rows], self.padding_side, fill)


class DynamicModel:
    """A transformers model that reads texts in tokens made for the batch. Made by `dynamic`.

    Calling it gives the model's inputs; `forward`, `generate` and `score` run the model's own methods on them. The
    model itself is not changed, and what it generates are tokens of its own vocabulary. Where it is trained or moved,
    or gets tokens, so do its rows here.

    Attributes:
        model, vocabulary: the model and its vocabulary.
        cache: rows of merged tokens that were predicted before.
        predicts: what the rows of merged tokens come from, in words.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        hypernet: Hypernetwork | None,
        limit: _Limit,
        boundary: Boundary,
        scope: Scope,
        keep_source: bool,
        cache: int,
    ) -> None:
        if model.config.is_encoder_decoder:
            raise UnsupportedError(
                f"{type(model).__name__} has an encoder and a decoder; dynamic tokenization runs encoders and decoders."
            )
        self.model, self.tokenizer = model, tokenizer
        self.cache = LRUEmbeddingCache(cache)
        self.padding_side = "left" if model.can_generate() else "right"
        self.predicts = "the mean of its pieces' rows" if hypernet is None else "the hypernetwork"
        self._network = hypernet or MeanOfPieces(is_tied(model))
        self._pieces = hypernet.config.pieces if hypernet is not None else 7
        self._limit, self._boundary, self._scope, self._keep_source = limit, boundary, scope, keep_source
        self._read_of: tuple[object, ...] = ()
        self._follow()

    def _follow(self) -> None:
        """Read the model and its tokenizer, unless they are as they were: weights and tokens may have changed since."""
        weights = [self.model.get_input_embeddings().weight]
        if isinstance(self._network, nn.Module):
            weights += self._network.parameters()
        if (head := self.model.get_output_embeddings()) is not None:
            weights.append(head.weight)
        states = ((w.data_ptr(), w._version, w.shape, w.dtype, w.device) for w in weights)
        now = (len(self.tokenizer), *states)
        if now == self._read_of:
            return
        self.vocabulary = ByteVocab.from_tokenizer(self.tokenizer)
        self._rule = pair_rule(self.vocabulary, self._boundary)
        self._source = source_rows(self.model)
        self._surfaces = Surfaces(self.vocabulary, len(self._source), self._pieces)
        self.cache.clear()
        self._read_of = now

    def __call__(self, texts: str | Sequence[str], *, max_length: int | None = None) -> DynamicBatch:
        """The model's inputs for texts.

        Args:
            texts: one or several.
            max_length: cut after so many tokens of the model's own, before merging.

        Raises:
            InputError: no text, or one without tokens.
        """
        ids = self.encode(texts, max_length=max_length)
        return self._inputs(ids, self.merge(ids))

    def encode(self, texts: str | Sequence[str], *, max_length: int | None = None) -> list[list[int]]:
        """The model's own tokenization, special tokens included."""
        self._follow()
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise InputError("No texts were given.")
        cut = {"truncation": True, "max_length": max_length} if max_length is not None else {}
        ids: list[list[int]] = self.tokenizer(texts, **cut)["input_ids"]
        if not all(ids):
            raise InputError(
                f"Text {[not row for row in ids].index(True)} has no tokens; leave empty texts out."
            )
        return ids

    def merge(self, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """For every sample the indices at which a (merged) token begins."""
        groups: list[list[Sequence[int]]] = [list(ids)] if self._scope == "batch" else [[row] for row in ids]
        return [row for group in groups for row in self._merged(group)]

    def merges_for(self, texts: Sequence[str], reduction: float, batch_size: int = 32) -> int:
        """How many merges a batch reach a share of the greatest possible saving, on average over a data set.

        Args:
            texts: the data set.
            reduction: share of the saving that merging to the end gives; 0 .. 1.
            batch_size: texts merged together.
        """
        _check_share(reduction)
        curves = [
            self._curve(self.encode(texts[i : i + batch_size])) for i in range(0, len(texts), batch_size)
        ]
        if not curves:
            raise InputError("No texts were given.")
        longest = max(map(len, curves))
        total = np.sum([np.pad(curve, (0, longest - len(curve)), mode="edge") for curve in curves], axis=0)
        return _first_below(total, reduction)

    def forward(self, texts: str | Sequence[str], *, max_length: int | None = None, **arguments: Any) -> Any:
        """The model's own forward."""
        return self.model(**self(texts, max_length=max_length), **arguments)

    def generate(
        self, texts: str | Sequence[str], *, max_length: int | None = None, **arguments: Any
    ) -> Int[Tensor, "b new"]:
        """The model's own `generate` after a prompt in merged tokens; the result is what was generated alone.

        Args:
            texts: prompts.
            max_length: cut prompts after so many tokens of the model's own.
            **arguments: of the model's `generate`.
        """
        batch = self(texts, max_length=max_length)
        inputs = {name: batch[name] for name in ("inputs_embeds", "attention_mask")}
        out: Tensor = self.model.generate(**inputs, **arguments)
        return out

    @torch.no_grad()
    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> Float[Tensor, " b"]:
        """Log-probability of answers after prompts in merged tokens.

        The answers are in the model's own tokens and judged by its own head.

        Args:
            prompts: one prompt an answer; their merges do not see the answers.
            answers: continuations; special tokens are not added.
        """
        if not self.model.can_generate():
            raise UnsupportedError(f"{type(self.model).__name__} does not predict next tokens.")
        if len(prompts) != len(answers):
            raise InputError(f"{len(prompts)} prompts and {len(answers)} answers.")
        ids = self.encode(prompts)
        tails: list[list[int]] = self.tokenizer(list(answers), add_special_tokens=False)["input_ids"]
        if not all(tails):
            raise InputError("Every answer needs at least one token.")
        starts = [
            [*begin, *range(len(row), len(row) + len(tail))]
            for begin, row, tail in zip(self.merge(ids), ids, tails, strict=True)
        ]
        batch = self._inputs([row + tail for row, tail in zip(ids, tails, strict=True)], starts)
        longest = max(map(len, tails))
        logits = self.model(**batch, logits_to_keep=longest + 1).logits[:, :-1].float()
        targets = _padded([torch.tensor(tail) for tail in tails], "left", -1).to(logits.device)
        found = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return found.masked_fill(targets < 0, 0.0).sum(1)

    # ------------------------------------------------------------------------------------------------ merging

    def _queue(self, group: Sequence[Sequence[int]]) -> tuple[MergeQueue, list[tuple[int, int, int]]]:
        """A queue over the stretches of a group that can merge at all, with (sample, start, end) of each."""
        stretches = [
            (sample, a, b)
            for sample, row in enumerate(group)
            for a, b in segments(self.vocabulary, row, self._boundary)
            if b - a > 1
        ]
        known = self.vocabulary.token_bytes
        sequences = [[known[token] or b"" for token in group[sample][a:b]] for sample, a, b in stretches]
        return MergeQueue(sequences, self._rule), stretches

    def _merged(self, group: Sequence[Sequence[int]]) -> list[list[int]]:
        merges = self._limit.merges
        if self._limit.reduction is not None:
            merges = _first_below(self._curve(group), self._limit.reduction)
        queue, stretches = self._queue(group)
        queue.run(merges)
        inside: list[set[int]] = [set() for _ in group]
        for (sample, a, b), origins in zip(stretches, queue.origins, strict=True):
            inside[sample].update(set(range(a, b)).difference(a + origin for origin in origins))
        return [
            [i for i in range(len(row)) if i not in gone] for row, gone in zip(group, inside, strict=True)
        ]

    def _curve(self, group: Sequence[Sequence[int]]) -> Int[np.ndarray, " merges_and_one"]:
        """Tokens that are left after 0, 1, 2 ... merges, to the end; those that can never merge are not counted."""
        queue, _ = self._queue(group)
        lengths = [len(queue)]
        while queue.merge() is not None:
            lengths.append(len(queue))
        return np.array(lengths)

    # --------------------------------------------------------------------------------------------- embeddings

    @torch.no_grad()
    def _inputs(self, ids: Sequence[Sequence[int]], starts: Sequence[Sequence[int]]) -> DynamicBatch:
        keys = [
            [self._key(row[a:b]) for a, b in zip(start, [*start, len(row)][1:], strict=True)]
            for row, start in zip(ids, starts, strict=True)
        ]
        unique = list(dict.fromkeys(key for row in keys for key in row))
        own = [key for key in unique if isinstance(key, int)]
        merged = [key for key in unique if isinstance(key, bytes)]
        table = self._source[own][:, : self._width]
        if merged:
            table = torch.cat([table, self.cache.rows(merged, self._predict).to(table)])
        at = {key: index for index, key in enumerate([*own, *merged])}
        index = [torch.tensor([at[key] for key in row], device=table.device) for row in keys]
        mask = _padded([torch.ones_like(row) for row in index], self.padding_side, 0)
        embeds = embed(self.model, table, _padded(index, self.padding_side, 0))
        inputs = {"inputs_embeds": embeds * mask[..., None].to(embeds.dtype), "attention_mask": mask}
        if (
            self.padding_side == "left"
        ):  # decoders count positions from the first row of the tensor, padding or not
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        known = self.vocabulary.token_bytes
        tokens = [[key if isinstance(key, bytes) else known[key] or b"" for key in row] for row in keys]
        return DynamicBatch(
            inputs, tokens, [list(s) for s in starts], [len(r) for r in ids], self.padding_side
        )

    @property
    def _width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])

    def _key(self, parts: Sequence[int]) -> Key:
        """A token that was not merged keeps its id, one that the model has takes it, others are their bytes."""
        data = b"".join(self.vocabulary.token_bytes[token] or b"" for token in parts)
        if self._keep_source:
            return parts[0] if len(parts) == 1 else self.vocabulary.ids.get(data, data)
        return data or parts[0]

    def _predict(self, tokens: list[bytes]) -> Float[Tensor, "new d"]:
        surface = self._surfaces.matrix(tokens).to(self._source.device)
        rows: Tensor = self._network.predict(surface, self._source).input_embeddings
        return rows


@dataclass(frozen=True)
class _Limit:
    """How far to merge: a number of merges, or a share of the greatest saving; None and None merges to the end."""

    merges: int | None
    reduction: float | None


def dynamic(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    hypernet: Hypernetwork | None = None,
    *,
    merges: int | None = None,
    reduction: float | None = None,
    boundary: Boundary = "pretokens",
    scope: Scope = "batch",
    keep_source: bool = True,
    cache: int = 5000,
) -> DynamicModel:
    """Dynamic tokenization (arXiv 2411.18553): run a model on fewer, longer tokens that are made for its input.

    Starting from the model's own tokenization, the most frequent pairs of neighbours in the batch are merged, and a
    hypernetwork (`tokenry.text.zett`) predicts the embeddings of the merged tokens. Without one, a merged token gets
    the mean of its pieces' rows, which costs accuracy sooner; the result's `predicts` says which it is.

    Encoders are padded on the right, decoders on the left; positions are those of the merged tokens, from 0.

    With ``scope="batch"`` merges, and so results, depend on which texts are in the batch; "sample" merges every text
    for itself. In the published code unmerged tokens go through the hypernetwork too (``keep_source=False``); keeping
    their rows makes 0 merges the identity.

    Args:
        model: an encoder, or a decoder for prefill, scoring and generation.
        tokenizer: its own.
        hypernet: trained on this model.
        merges: how many merges a batch (or sample).
        reduction: instead: the share, 0 .. 1, of what merging to the end would save in this batch (or sample).
        boundary: what a token may not cross: "pretokens" of the tokenizer, white-space "word", "word_hyphen"
            (punctuation stays apart but for hyphens), or "sentence" (only special tokens bound).
        scope: what is counted together.
        keep_source: tokens of the model's own vocabulary keep their rows.
        cache: rows of merged tokens to remember.

    Returns:
        What makes the inputs and runs the model. The model's weights are read when it is made.

    Raises:
        InputError: both or neither of merges and reduction, or values that mean nothing.
        UnsupportedError: encoder-decoder models.
    """
    if (merges is None) == (reduction is None):
        raise InputError(
            "Say how far to merge with either merges=... or reduction=... (1.0 merges to the end)"
        )
    if merges is not None and merges < 0:
        raise InputError(f"Merges must not be negative, got {merges}")
    if reduction is not None:
        _check_share(reduction)
    if scope not in ("batch", "sample"):
        raise InputError(f'Scope must be "batch" or "sample", got {scope!r}')
    check_boundary(boundary)
    limit = _Limit(merges, reduction)
    return DynamicModel(model, tokenizer, hypernet, limit, boundary, scope, keep_source, cache)


def _check_share(reduction: float) -> None:
    if not 0 <= reduction <= 1 or math.isnan(reduction):
        raise InputError(f"Reduction is a share between 0 and 1 of the greatest saving, got {reduction}")


def _first_below(lengths: Int[np.ndarray, " n"], reduction: float) -> int:
    """The least number of merges that saves this share of what all of them save."""
    target = lengths[0] - reduction * (lengths[0] - lengths[-1])
    return int(np.argmax(lengths <= target + 1e-9))


def _padded(rows: Sequence[Tensor], side: str, fill: int) -> Int[Tensor, "b t"]:
    """Rows of unequal length as one tensor."""
    return pad_sequence(list(rows), batch_first=True, padding_value=fill, padding_side=side)
