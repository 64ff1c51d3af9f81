"""Text as two vocabularies see it: token sequences and how the tokens of one lie over those of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError


def token_lines(vocabulary: ByteVocab, texts: Iterable[str]) -> Iterator[Int[np.ndarray, " length"]]:
    """Token ids of each line that the vocabulary can encode; empty lines are left out."""
    for data in _lines(texts):
        ids = _encoded(vocabulary, data)
        if ids:
            yield np.array(ids)


def token_names(vocabulary: ByteVocab) -> list[str]:
    """A string for each id, different for different bytes; special tokens have an empty one."""
    return [(data or b"").decode("utf-8", "backslashreplace") for data in vocabulary.token_bytes]


def overlaps(
    source: ByteVocab, target: ByteVocab, texts: Iterable[str]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """How often a source token lies where a target token does, when both vocabularies cut the same text.

    An occurrence of a target token counts 1, shared out by bytes among the source tokens that it overlaps.

    Returns:
        Target ids, source ids, counts; pairs sorted by target id, then source id.
    """
    keys: list[Int[np.ndarray, " n"]] = []
    shares: list[Float[np.ndarray, " n"]] = []
    source_lengths, target_lengths = _lengths(source), _lengths(target)
    for data in _lines(texts):
        pair = _both(source, target, data)
        if pair is None:
            continue
        old, new = pair
        old_ends, new_ends = np.cumsum(source_lengths[old]), np.cumsum(target_lengths[new])
        cuts = np.union1d(old_ends, new_ends)
        at_old, at_new = np.searchsorted(old_ends, cuts), np.searchsorted(new_ends, cuts)
        keys.append(new[at_new] * source.size + old[at_old])
        shares.append(np.diff(cuts, prepend=0) / target_lengths[new[at_new]])
    if not keys:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0)
    found, at = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(at, np.concatenate(shares), minlength=len(found))
    return found // source.size, found % source.size, counts


def _both(
    source: ByteVocab, target: ByteVocab, data: bytes
) -> tuple[Int[np.ndarray, " old"], Int[np.ndarray, " new"]] | None:
    """Both tokenizations of the same bytes; None where there is no text that both can write.

    WordPiece changes what it reads (case, accents, white space): the text is then what it can write.
    """
    for vocabulary in (source, target):
        if vocabulary.kind == "wordpiece":
            data = _written(vocabulary, _encoded(vocabulary, data))
    old, new = _encoded(source, data), _encoded(target, data)
    if not old or not new or _written(source, old) != data or _written(target, new) != data:
        return None
    return np.array(old), np.array(new)


def _written(vocabulary: ByteVocab, ids: Sequence[int]) -> bytes:
    return b"".join(vocabulary.token_bytes[token] or b"" for token in ids)


def _encoded(vocabulary: ByteVocab, data: bytes) -> list[int]:
    try:
        return vocabulary.encode(vocabulary.writable(data))
    except InputError:
        return []  # a character that a vocabulary without byte fallback does not have


def _lengths(vocabulary: ByteVocab) -> Int[np.ndarray, " ids"]:
    return np.array([len(token or b"") for token in vocabulary.token_bytes])


def _lines(texts: Iterable[str]) -> Iterator[bytes]:
    for text in texts:
        for line in text.splitlines(keepends=True):
            if line.strip():
                yield line.encode("utf-8", "surrogateescape")
