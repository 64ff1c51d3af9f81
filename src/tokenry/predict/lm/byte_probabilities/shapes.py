"""What of a token's characters a pre-tokenizer can tell apart."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Set
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import UnsupportedError

#: Letters that a rule for contractions ('s 't 're 've 'm 'll 'd) may name.
_NAMED = frozenset("sdmtlverSDMTLVER")
#: Code points of the first two planes, in which neighbours may be of different classes.
_PLANES = 0x20000
#: What such rules are written with; anything else in a pattern could tell characters apart that `shape` does not.
_CONSTRUCTS = re.compile(
    r"\\p\{(?:L|N|M|Lu|Ll|Lt|Lm|Lo)\}|\\[srnSt]|\(\?!\\S\)|\(\?i:|\(\?:|\{\d(?:,\d*)?\}"
    r"|[()\[\]|?+*^/' ]|[sdmtlverSDMTLVER]|[\r\n]"
)


def check_splitting(vocab: ByteVocab) -> None:
    """Refuse pre-tokenizers of which it is not known what they look at.

    Raises:
        UnsupportedError: another pre-tokenizer than ByteLevel, Digits, or Split with a pattern of GPT-2's kind (classes
            of characters, contractions, look-ahead for white space).
    """
    spec = json.loads(vocab.tokenizer.backend_tokenizer.to_str())
    for part in _parts(spec["pre_tokenizer"]):
        if part["type"] in ("ByteLevel", "Digits"):
            continue
        pattern = part.get("pattern", {})
        text = pattern.get("Regex", re.escape(pattern.get("String", "#")))
        if part["type"] != "Split" or _CONSTRUCTS.sub("", text):
            raise UnsupportedError(
                f"Exact byte probabilities know pre-tokenizers that split by classes of characters as GPT-2's does; "
                f"this one ({part['type']} {text if pattern else ''}) may look at something else."
            )
    if any(not entry["special"] for entry in spec["added_tokens"] or ()):
        raise UnsupportedError(
            "This tokenizer has added tokens that are plain text; they are cut out before pre-tokenization, which "
            "exact byte probabilities do not support."
        )


def _parts(component: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if component is None:
        return
    nested = component.get("pretokenizers")
    if isinstance(nested, list):
        for part in nested:
            yield from _parts(part)
    else:
        yield component


@lru_cache(maxsize=65536)
def character_class(char: str) -> str:
    """White space, digits' kinds, letters' cases, apostrophe and slash are told apart; other symbols are one class."""
    if char.isspace() or unicodedata.category(char) in ("Zs", "Zl", "Zp"):
        return char
    category = unicodedata.category(char)
    if category[0] in "LN":
        return category
    if category[0] == "M":
        return "M"
    return char if char in "'/" else "P"


def kinds(text: str, armed: int = 0) -> tuple[list[str], int]:
    """What a pre-tokenizer can see of each character, and how many more may belong to a contraction.

    Args:
        text: characters; bytes that are not UTF-8 ("surrogateescape") stand for themselves.
        armed: how many of the first characters may belong to a contraction that begins before the text.
    """
    found: list[str] = []
    for char in text:
        if "\udc80" <= char <= "\udcff":
            kind, armed = char, 0
        elif armed and char in _NAMED:
            kind, armed = char, armed - 1
        else:
            kind = character_class(char)
            armed = 2 if kind == "'" else 0
        found.append(kind)
    return found, armed


def shape(text: bytes, armed: int = 0) -> tuple[str, ...]:
    """A text's characters as classes, runs of letters and of symbols cut to two.

    Two texts of one shape are split alike, whatever stands before them: letters count singly only where they could
    belong to a contraction, within two characters after an apostrophe.

    Args:
        text: bytes; those that are not UTF-8 stand for themselves.
        armed: how many of the first characters may belong to a contraction that begins before the text.
    """
    found: list[str] = []
    for kind in kinds(text.decode("utf-8", "surrogateescape"), armed)[0]:
        if len(kind) > 1 or kind in "PM":
            if kind[0] == "N" or found[-2:] != [kind, kind]:
                found.append(kind)
        else:
            found.append(kind)
    return tuple(found)


def borders(text: bytes) -> tuple[int, ...]:
    """Where the kind of character changes, in bytes from the end: the only places inside it at which a text is split,
    but for white space and digits, which a `shape` does not shorten."""
    found: list[int] = []
    left, before = len(text), ""
    for char in text.decode("utf-8", "surrogateescape"):
        broken = "\udc80" <= char <= "\udcff"
        kind = char if broken else character_class(char)
        if before and kind != before:
            found.append(left)
        left -= 1 if broken else len(char.encode())
        before = kind
    return tuple(found)


def split_partial(data: bytes) -> tuple[bytes, bytes]:
    """A text and the beginning of a UTF-8 character that it ends with, if it does."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            tail = data[-back:]
            return (data[:-back], tail) if _range(tail) else (data, b"")
    return data, b""


@lru_cache(maxsize=4096)
def completions(partial: bytes) -> tuple[str, ...]:
    """One character of each class among those whose UTF-8 starts so (and is longer): the smallest."""
    codes = _range(partial)
    if not codes:
        return ()
    if codes[0] >= _PLANES:  # from here on, blocks of 64 are all of one class
        found: dict[str, str] = {}
        for code in codes[::64] if len(codes) > 64 else codes:
            found.setdefault(character_class(chr(code)), chr(code))
        return tuple(found.values())
    numbers, first = np.unique(_class_numbers()[codes[0] : codes[-1] + 1], return_index=True)
    return tuple(chr(codes[0] + int(at)) for at in np.sort(first[numbers >= 0]))


@lru_cache(maxsize=4096)
def completing_kinds(partial: bytes) -> frozenset[str]:
    """The classes of the characters whose UTF-8 starts so (and is longer)."""
    return frozenset(map(character_class, completions(partial)))


@lru_cache(maxsize=1)
def _class_numbers() -> Int[np.ndarray, " codes"]:
    """A number for the class of each code point of the first two planes; -1 for halves of surrogate pairs."""
    numbers: dict[str, int] = {}
    return np.array(
        [
            -1 if 0xD800 <= code <= 0xDFFF else numbers.setdefault(character_class(chr(code)), len(numbers))
            for code in range(_PLANES)
        ],
        np.int32,
    )


def uncovered(partial: bytes, pieces: Set[bytes]) -> bool:
    """Whether some character whose UTF-8 starts so is not among the pieces of a vocabulary."""
    return any(chr(code).encode() not in pieces for code in _range(partial) if not 0xD800 <= code <= 0xDFFF)


def _range(partial: bytes) -> range:
    """The code points whose UTF-8 starts so and is longer; none if there is no such character."""
    lead = partial[0]
    length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if not 0xC2 <= lead <= 0xF4 or len(partial) >= length:
        return range(0)
    value = lead & (0x7F >> length)
    for byte in partial[1:]:
        if byte & 0xC0 != 0x80:
            return range(0)
        value = value << 6 | byte & 0x3F
    bits = 6 * (length - len(partial))
    least = (0, 0, 0x80, 0x800, 0x10000)[length]
    found = range(max(value << bits, least), min((value + 1) << bits, 0x110000))
    return range(0) if found and found[0] >= 0xD800 and found[-1] <= 0xDFFF else found
