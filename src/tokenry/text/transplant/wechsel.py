"""WECHSEL: subword vectors out of word vectors of both languages, and the nearest source subwords by them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tokenry.text.knn import KnnIndex
from tokenry.text.string_vectors import CorpusVectors
from tokenry.text.transplant.base import Context, Mixing, Mixture
from tokenry.text.transplant.counting import token_names
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

_QUERIES = 2048


@dataclass(frozen=True, kw_only=True)
class Wechsel(Mixing):
    """Softmax over the ten source subwords nearest in aligned word-vector spaces.

    *WECHSEL: Effective initialization of subword embeddings for cross-lingual transfer of monolingual language models*,
    arXiv 2112.06598. Word vectors of both languages are aligned by an orthogonal map (Procrustes) on a dictionary, each
    entry also in lower and title case. A subword's vector is the mean of the vectors of the words that contain it,
    weighted by their frequency. A new token's row is the softmax-weighted mean of its nearest source subwords' rows.

    The source's language is ``context.source_texts``, the target's ``context.texts``; without the first both are the
    same language, whose vectors need no alignment. Without ``context.dictionary`` the words that both corpora have are
    the dictionary. The authors use fastText's published vectors; here they are PPMI and a truncated SVD of the given
    text. Subwords that no word contains take the mean of their character n-grams' vectors, as fastText would have it;
    if none is known, a random row.

    Attributes:
        neighbours: source subwords per new token.
        temperature: of the softmax.
        width: of the word vectors.
        window: farthest neighbour that counts.
        min_count: rarer words are left out.
    """

    slug: ClassVar[str] = "wechsel"

    neighbours: int = 10
    temperature: float = 0.1
    width: int = 100
    window: int = 5
    min_count: int = 5

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture:
        """Weights of the nearest source subwords."""
        n = len(plan.unique)
        words = _Words.read(context.need_texts("wechsel"), self, context.seed)
        if n == 0:
            return Mixture.empty(0)
        new = words.subwords(plan.target)[torch.from_numpy(plan.unique)]
        if context.source_texts:
            old_words = _Words.read(context.source_texts, self, context.seed)
            old = old_words.subwords(plan.source) @ old_words.rotation(words, context.dictionary)
            old = F.normalize(old, dim=1)
        else:
            old = words.subwords(plan.source)
        known = torch.nonzero(old.norm(dim=1) > 0).flatten()
        asking = torch.nonzero(new.norm(dim=1) > 0).flatten()
        if not len(known) or not len(asking):
            return Mixture.empty(n)
        k = min(self.neighbours, len(known))
        index = KnnIndex(old[known])
        ids, weights = [], []
        for block in asking.split(_QUERIES):
            found = index.search(new[block], k)
            ids.append(known[found.ids])
            weights.append(torch.softmax(found.scores / self.temperature, 1))
        return Mixture.of(
            asking.repeat_interleave(k), torch.cat(ids).flatten(), torch.cat(weights).flatten(), n
        )


@dataclass(frozen=True, eq=False)
class _Words:
    """The words of a corpus with their frequencies and vectors."""

    counts: dict[str, int]
    fitted: CorpusVectors

    @property
    def vectors(self) -> Float[Tensor, "words width"]:
        """Of the words of `counts`, in their order."""
        return self.fitted.vectors

    @classmethod
    def read(cls, texts: Iterable[str], method: Wechsel, seed: int) -> _Words:
        lines = [words for text in texts for line in text.splitlines() if (words := line.split())]
        counted = Counter(word for words in lines for word in words)
        place = {word: i for i, word in enumerate(counted)}
        fitted = CorpusVectors.fit(
            (np.array([place[word] for word in words]) for words in lines),
            list(place),
            width=method.width,
            window=method.window,
            min_count=method.min_count,
            seed=seed,
        )
        return cls({word: counted[word] for word in fitted.names}, fitted)

    def subwords(self, vocabulary: ByteVocab) -> Float[Tensor, "ids width"]:
        """Mean vector of the words that contain each token, at length 1; where none does, that of its characters."""
        token, word = [], []
        for i, text in enumerate(self.counts):
            try:
                ids = vocabulary.encode(vocabulary.writable(f" {text}".encode("utf-8", "surrogateescape")))
            except InputError:
                continue  # a character that this vocabulary does not have
            token.extend(ids)
            word.extend([i] * len(ids))
        rows, columns = torch.tensor(token, dtype=torch.long), torch.tensor(word, dtype=torch.long)
        frequency = torch.tensor(list(self.counts.values()), dtype=torch.float32)
        total = torch.zeros(vocabulary.size, self.vectors.shape[1])
        total.index_add_(0, rows, self.vectors[columns] * frequency[columns, None])
        unseen = [
            t for t in torch.nonzero(total.norm(dim=1) == 0).flatten().tolist() if vocabulary.token_bytes[t]
        ]
        names = token_names(vocabulary)
        total[torch.tensor(unseen, dtype=torch.long)] = self.fitted([names[t].strip() for t in unseen])
        return F.normalize(total, dim=1)

    def rotation(
        self, other: _Words, dictionary: Sequence[tuple[str, str]]
    ) -> Float[Tensor, "width other_width"]:
        """The orthogonal map that brings these vectors closest to the other language's, on a dictionary."""
        pairs = list(dictionary) or [(word, word) for word in self.counts if word in other.counts]
        variants = [(change(a), change(b)) for a, b in pairs for change in (str, str.lower, str.title)]
        mine, theirs = ({word: i for i, word in enumerate(w.counts)} for w in (self, other))
        found = sorted({(mine[a], theirs[b]) for a, b in variants if a in mine and b in theirs})
        if len(found) < 2:
            raise InputError(
                "wechsel: the two languages' texts and the dictionary have fewer than two word pairs in common, so "
                "their vectors cannot be aligned. Give a dictionary of (source word, target word) pairs."
            )
        a, b = torch.tensor(found).T
        u, _, v = torch.linalg.svd(self.vectors[a].T @ other.vectors[b], full_matrices=False)
        return u @ v
