"""Cutting text into words without losing a byte: what word-level language models call a token.

A word here is a piece of the text with its whitespace and punctuation, so that joining the words gives the text back.
Four ways of cutting:

* ``"unicode"``: the rule of HAT (arXiv 2501.10322, appendix C): word boundaries of UAX 29, cut again at punctuation and
  between a lower-case and an upper-case letter; then one space before and the punctuation behind stay with their word.
  The published splitter finds words of Chinese, Japanese or Thai with a dictionary; this one has UAX 29 alone, which
  cuts them into characters. It also cuts at the few signs that UAX 29 keeps inside a word depending on what
  comes after them (U+2044, the fraction slash, for example), because only then is the cut stable (below).
* ``"whitespace"``: cut after runs of whitespace, which stay with the word before (the other rule of HAT).
* ``"punctuation"``: words and single punctuation signs as BERT's basic tokenizer finds them, whitespace kept in front.
* ``"gpt2"``: the pre-tokens of GPT-2.

All but the last are *prefix stable*: cutting a prefix of a text gives the words of the text except, perhaps, the last
word of the prefix. A model that writes text word by word needs that: what it has read never changes its cut.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import regex

from tokenry.tokens.errors import InputError

SplitKind = Literal["unicode", "whitespace", "punctuation", "gpt2"]

# Signs that UAX 29 keeps inside a word only if a letter or digit follows (rules WB6 and WB12) must cut always.
_PUNCTUATION = r"[\p{P}\p{WB=MidLetter}\p{WB=MidNum}\p{WB=MidNumLet}]"
_LETTER = r"[^\s\p{P}\p{WB=MidLetter}\p{WB=MidNum}\p{WB=MidNumLet}]"
_WORD = rf"(?:{_LETTER}(?:\B(?!(?<=\p{{Ll}})\p{{Lu}}){_LETTER})*+)"
# BERT counts every printable ASCII sign that is no letter or digit as punctuation and sets CJK ideographs apart.
_BERT_SINGLE = r"\p{P}!-/:-@\[-`{-~\p{Unified_Ideograph}"

_PATTERNS: Mapping[str, str] = {
    "unicode": rf" (?!\B\s){_WORD}?+{_PUNCTUATION}*+|{_WORD}{_PUNCTUATION}*+|{_PUNCTUATION}++|\s(?:\B\s)*+",
    "whitespace": r"\S*+\s++|\S++",
    "punctuation": rf"\s*+(?:[{_BERT_SINGLE}]|[^\s{_BERT_SINGLE}]++)|\s++",
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+",
}


@cache
def _pattern(kind: str) -> "regex.Pattern[str]":
    # WORD makes \b and \B the boundaries of UAX 29
    return regex.compile(_PATTERNS[kind], regex.WORD | regex.VERSION0)


@dataclass(frozen=True)
class WordSplitter:
    """Cuts text into words, and joins them again, byte by byte the same.

    Attributes:
        kind: where to cut (see the module).
        max_bytes: longest word; longer ones are cut into pieces of that many bytes, at the last boundary between
            characters where there is one.

    Raises:
        InputError: if the kind is unknown or ``max_bytes`` is below 1.
    """

    kind: SplitKind | str = "unicode"  # str: what a configuration file says is checked below
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SplitKind):
            raise InputError(f"Kind must be one of {', '.join(get_args(SplitKind))}, got {self.kind!r}")
        if self.max_bytes is not None and self.max_bytes < 1:
            raise InputError(f"max_bytes must be at least 1, or None for no limit, got {self.max_bytes}")

    @property
    def prefix_stable(self) -> bool:
        """Whether more text never changes the cut of the text before its last word."""
        return self.kind != "gpt2"

    def split(self, text: str | bytes) -> list[bytes]:
        """The words of a text.

        Args:
            text: characters or UTF-8. Bytes that are no UTF-8 are kept as they are and count as no letter.

        Returns:
            Words of at least one byte whose concatenation is the text.

        Raises:
            InputError: if a string has half of a surrogate pair in it, which is no character.
        """
        errors = "strict"
        if isinstance(text, bytes):  # what is no UTF-8 passes through the string as half surrogate pairs
            text, errors = text.decode("utf-8", "surrogateescape"), "surrogateescape"
        try:
            words = [word.encode("utf-8", errors) for word in _pattern(self.kind).findall(text)]
        except UnicodeEncodeError as error:
            raise InputError(
                f"The text has half a surrogate pair at character {error.start} of the word {error.object!r}: "
                'decode it with errors="replace", or hand in its bytes.'
            ) from error
        if self.max_bytes is None:
            return words
        return [piece for word in words for piece in pieces(word, self.max_bytes)]

    @staticmethod
    def join(words: Iterable[bytes]) -> bytes:
        """The text that has these words."""
        return b"".join(words)


def pieces(word: bytes, longest: int) -> list[bytes]:
    """A word in pieces of at most so many bytes, none of them ending inside a character if that can be helped."""
    found, start = [], 0
    while len(word) - start > longest:
        end = start + longest
        while end > start and word[end] & 0xC0 == 0x80:  # 0b10xxxxxx goes on with a character
            end -= 1
        if end == start:  # one character longer than the limit
            end = start + longest
        found.append(word[start:end])
        start = end
    return [*found, word[start:]]
