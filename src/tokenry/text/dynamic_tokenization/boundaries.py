"""Where dynamic tokenization may merge: inside pre-tokens, words, hyphenated words or sentences."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

Boundary = Literal["pretokens", "word", "word_hyphen", "sentence"]
PairRule = Callable[[bytes, bytes], bool]

_SPACES = b" \t\n"


def check_boundary(boundary: str) -> None:
    """Refuse what is no boundary."""
    if boundary not in get_args(Boundary):
        raise InputError(f"Boundary must be one of {', '.join(get_args(Boundary))}; got {boundary!r}")


def segments(vocabulary: ByteVocab, ids: Sequence[int], boundary: Boundary) -> list[tuple[int, int]]:
    """Stretches of a token sequence inside which merging may happen at all, as (start, end), in order.

    Special tokens lie in none. With "pretokens" a stretch is a pre-token of the text that the tokens spell.
    """
    out: list[tuple[int, int]] = []
    start = 0
    for i in range(len(ids) + 1):
        if i == len(ids) or vocabulary.token_bytes[ids[i]] is None:
            if i > start:
                out.append((start, i))
            start = i + 1
    if boundary != "pretokens":
        return out
    return [part for a, b in out for part in _pretokens(vocabulary, ids, a, b)]


def _pretokens(vocabulary: ByteVocab, ids: Sequence[int], start: int, end: int) -> list[tuple[int, int]]:
    tokens = [vocabulary.token_bytes[token] or b"" for token in ids[start:end]]
    if vocabulary.kind == "wordpiece":
        begins = [token.startswith(b" ") for token in tokens]
    else:
        seams = {a for a, _ in vocabulary.pretoken_spans(b"".join(tokens))}
        begins, at = [], 0
        for token in tokens:
            begins.append(at in seams)
            at += len(token)
    cuts = [start, *(start + i for i, first in enumerate(begins) if first and i), end]
    return list(pairwise(cuts))


def pair_rule(vocabulary: ByteVocab, boundary: Boundary) -> PairRule:
    """Which neighbours inside a stretch may merge.

    For "pretokens" all of them, as the stretches are the pre-tokens already. (The published code asks whether the two
    tokens *by themselves* pre-tokenise to one piece, which may join what the pre-tokenizer keeps apart in the text -
    "3" and "4" across the seam of "123|4" - and always accepts halves of characters. With seams from the text itself,
    merging to the end gives exactly the pre-tokens.) SentencePiece vocabularies without a pre-tokenizer have no seams:
    there white space may only begin a token. The word boundaries are those of the published code.
    """
    if boundary == "sentence":
        return _anything
    if boundary == "pretokens":
        return _space_first if vocabulary.kind == "sentencepiece" else _anything
    return _one_word if boundary == "word" else _one_hyphenated_word


def _anything(left: bytes, right: bytes) -> bool:
    return True


def _space_first(left: bytes, right: bytes) -> bool:
    """White space at the beginning only, unless there is nothing else; never an empty line."""
    whole = left + right
    if any(space in whole[1:] for space in _SPACES):
        return not whole.strip(_SPACES) and b"\n\n" not in whole
    return True


def _one_word(left: bytes, right: bytes) -> bool:
    whole = left + right
    if not _space_first(left, right):
        return False
    try:
        return len(whole.decode().split()) == 1
    except UnicodeDecodeError:
        return True  # half a character: what it will be is not known yet


def _one_hyphenated_word(left: bytes, right: bytes) -> bool:
    """One word, and punctuation joins a word only if it is a hyphen."""
    if not _one_word(left, right):
        return False
    try:
        parts = left.decode().strip(), right.decode().strip()
    except UnicodeDecodeError:
        return True
    signs = [part for part in parts if part and all(_is_sign(char) for char in part)]
    return len(signs) != 1 or signs[0] == "-"


def _is_sign(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
