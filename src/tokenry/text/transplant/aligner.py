"""Word alignment of translated sentences: IBM model 2 with a preference for the diagonal, as in fast_align."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tokenry.tokens.errors import InputError

_EMPTY = 0.08  # probability that a word is aligned with nothing
_TENSION = 4.0  # how strongly words align along the diagonal
_PRIOR = (
    0.01  # Dirichlet prior of the variational step, as fast_align has it without its mean-field approximation
)


def align_words(parallel: Sequence[tuple[str, str]], iterations: int = 7) -> list[tuple[str, str, int]]:
    """Align the words of sentence pairs and count the aligned pairs.

    *A Simple, Fast, and Effective Reparameterization of IBM Model 2* (Dyer et al., NAACL 2013): a target word picks the
    source word that translates it best, weighted by ``exp(-tension * |i/m - j/n|)``, or nothing. The tension is fixed
    here, and expectation maximisation estimates the translation probabilities only.

    Args:
        parallel: (source sentence, target sentence) pairs; words are what white space separates.
        iterations: of expectation maximisation.

    Returns:
        (source word, target word, count), in the order of their first occurrence.

    Raises:
        InputError: no pair has words on both sides.
    """
    sentences = [(a.split(), b.split()) for a, b in parallel]
    sentences = [(a, b) for a, b in sentences if a and b]
    if not sentences:
        raise InputError("There are no sentence pairs with words on both sides: nothing can be aligned.")
    source_ids = {w: i for i, w in enumerate(dict.fromkeys(w for a, _ in sentences for w in a))}
    target_ids = {w: i for i, w in enumerate(dict.fromkeys(w for _, b in sentences for w in b))}
    null = len(source_ids)
    links = [_links([source_ids[w] for w in a] + [null], [target_ids[w] for w in b]) for a, b in sentences]
    old, new, prior = (np.concatenate(part) for part in zip(*links, strict=True))
    # One link is one (source place, target place) of a sentence; those of a target place stand together.
    sizes = np.concatenate([np.full(len(b), len(a) + 1) for a, b in sentences])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    pair, at = np.unique(old * len(target_ids) + new, return_inverse=True)
    given = pair // len(target_ids)
    translation = np.ones(len(pair))
    for _ in range(iterations):
        share = prior * translation[at]
        share /= np.repeat(np.add.reduceat(share, first), sizes)
        expected = np.bincount(at, share, minlength=len(pair)) + _PRIOR
        translation = expected / np.bincount(given, expected, minlength=null + 1)[given]
    chosen = _best_of_each(prior * translation[at], first, sizes)
    real = chosen[old[chosen] != null]
    words, translations = list(source_ids), list(target_ids)
    counted = Counter(zip(old[real].tolist(), new[real].tolist(), strict=True))
    return [(words[a], translations[b], count) for (a, b), count in counted.items()]


def _links(
    source: Sequence[int], target: Sequence[int]
) -> tuple[Int[np.ndarray, " links"], Int[np.ndarray, " links"], Float[np.ndarray, " links"]]:
    """Source word, target word and prior of every link of one sentence pair; the last source word is "nothing"."""
    m, n = len(source) - 1, len(target)
    i, j = np.arange(m) / m, np.arange(n)[:, None] / n
    near = np.exp(-_TENSION * np.abs(i - j))
    near *= (1 - _EMPTY) / near.sum(1, keepdims=True)
    prior = np.concatenate([near, np.full((n, 1), _EMPTY)], 1)
    return np.tile(source, n), np.repeat(target, m + 1), prior.ravel()


def _best_of_each(
    score: Float[np.ndarray, " links"], first: Int[np.ndarray, " groups"], sizes: Int[np.ndarray, " groups"]
) -> Int[np.ndarray, " groups"]:
    """Index of the largest score of each group; the first of equal ones."""
    best = np.repeat(np.maximum.reduceat(score, first), sizes)
    hits = np.flatnonzero(score == best)
    group = np.searchsorted(first, hits, side="right")
    return hits[np.unique(group, return_index=True)[1]]
