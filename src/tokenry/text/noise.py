"""Spelling noise, for asking a model how much it minds. Word boundaries and the number of characters stay."""

import numpy as np
from numpy.typing import NDArray

from tokenry.tokens.errors import InputError

_ALPHABET = np.array([ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz"], dtype=np.uint32)


def swap_letters(text: str, share: float, seed: int = 0) -> str:
    """Exchange letters with their right neighbours.

    Args:
        text: any; only letters move, and only beside letters.
        share: of all letters, how many are moved at most: each swap moves two, and none moves twice.
        seed: which ones.

    Raises:
        InputError: if the share is not between 0 and 1.
    """
    codes, letters = _letters(text, share)
    able = np.append(letters[:-1] & letters[1:], False)[: len(codes)]
    first = able & (np.random.default_rng(seed).random(len(codes)) < share / 2)
    # in a run of chosen places every other one counts, so that the pairs are disjoint
    index = np.arange(len(codes))
    start = np.maximum.accumulate(np.where(first & ~np.append(False, first[:-1])[: len(codes)], index, 0))
    first &= (index - start) % 2 == 0
    places = np.flatnonzero(first)
    codes[np.concatenate([places, places + 1])] = codes[np.concatenate([places + 1, places])]
    return _text(codes)


def replace_letters(text: str, share: float, seed: int = 0) -> str:
    """Put random letters from a to z in the place of letters; capitals stay capitals.

    Args:
        text: any; only letters change.
        share: of all letters, how many are drawn anew (one in 26 of them to be the same again).
        seed: which ones, and by what.

    Raises:
        InputError: if the share is not between 0 and 1.
    """
    codes, letters = _letters(text, share)
    random = np.random.default_rng(seed)
    hit = letters & (random.random(len(codes)) < share)
    drawn = random.choice(_ALPHABET, len(codes))
    capital = np.array([character.isupper() for character in text], dtype=bool)
    codes[hit] = np.where(capital, drawn - 32, drawn)[hit]
    return _text(codes)


def _letters(text: str, share: float) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    if not 0 <= share <= 1:
        raise InputError(f"A share of letters lies between 0 and 1, got {share}")
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).copy()
    return codes, np.array([character.isalpha() for character in text], dtype=bool)


def _text(codes: NDArray[np.uint32]) -> str:
    return codes.tobytes().decode("utf-32-le")
