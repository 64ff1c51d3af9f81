"""Rules by which a web corpus is cleaned before a model is trained on it: documents that are not running prose go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from tokenry.tokens.errors import InputError

_COMMON: Final = {
    "en": "the be to of and that have with is in it for as on are this",
    "es": "de la que el en y los se del las un por con una para es",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais",
}
STOP_WORDS: Final = MappingProxyType(
    {language: frozenset(words.split()) for language, words in _COMMON.items()}
)
_BULLETS: Final = ("•", "-", "*", "·", "‣", "–", "●", "▪")
_ELLIPSES: Final = ("...", "…")
_MOJIBAKE: Final = re.compile(r"[Â-ß][\x80-¿]|[Â-ßà-ï][\x80-¿€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]{1,2}")


@dataclass(frozen=True)
class Rules:
    """What a document must be like. The defaults are Cabrita's (arXiv 2308.11878), which are mostly Gopher's.

    Attributes:
        words: Least and largest number of words.
        word_length: Least and largest mean length of a word in characters.
        symbols: Largest number of "#" and ellipses, by number of words.
        bullets: Largest share of lines that start with a bullet.
        ellipses: Largest share of lines that end in an ellipsis.
        letters: Least share of words with a letter in them.
        stop_words: Words that prose of the language cannot do without.
        different_stop_words: How many of them must occur.
        different_tokens: How many different tokens a document must have, where a tokenizer is given.
    """

    words: tuple[int, int] = (50, 100_000)
    word_length: tuple[float, float] = (3.0, 10.0)
    symbols: float = 0.1
    bullets: float = 0.9
    ellipses: float = 0.3
    letters: float = 0.8
    stop_words: frozenset[str] = field(default=STOP_WORDS["pt"])
    different_stop_words: int = 2
    different_tokens: int = 200


@dataclass(frozen=True)
class Cleaned:
    """Documents that passed, and why the others did not.

    Attributes:
        kept: The documents, their encoding repaired, in order.
        broken: Rule -> how many documents broke it; a document may break several.
    """

    kept: tuple[str, ...]
    broken: Mapping[str, int]


def broken_rules(text: str, rules: Rules | None = None, tokenizer: Any | None = None) -> tuple[str, ...]:
    """Return the names of the rules that a document breaks.

    Args:
        text: The document.
        rules: By default Cabrita's for Portuguese.
        tokenizer: To count different tokens with; without one that rule is not applied.
    """
    rules = Rules() if rules is None else rules
    words = text.split()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not words:
        return ("words",)
    count = len(words)
    symbols = text.count("#") + sum(text.count(mark) for mark in _ELLIPSES)
    present = {word.strip(".,;:!?()\"'").lower() for word in words} & rules.stop_words
    holds = {
        "words": rules.words[0] <= count <= rules.words[1],
        "word_length": rules.word_length[0] <= sum(map(len, words)) / count <= rules.word_length[1],
        "symbols": symbols / count <= rules.symbols,
        "bullets": sum(line.startswith(_BULLETS) for line in lines) / len(lines) <= rules.bullets,
        "ellipses": sum(line.endswith(_ELLIPSES) for line in lines) / len(lines) <= rules.ellipses,
        "letters": sum(any(char.isalpha() for char in word) for word in words) / count >= rules.letters,
        "different_stop_words": len(present) >= rules.different_stop_words,
    }
    if tokenizer is not None:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        holds["different_tokens"] = len(set(ids)) >= rules.different_tokens
    return tuple(name for name, kept in holds.items() if not kept)


def clean(texts: Iterable[str], rules: Rules | None = None, tokenizer: Any | None = None) -> Cleaned:
    """Repair the encoding of documents and keep those that break no rule.

    Raises:
        InputError: If none is left.
    """
    kept: list[str] = []
    broken: Counter[str] = Counter()
    for text in texts:
        text = repair_encoding(text)
        if found := broken_rules(text, rules, tokenizer):
            broken.update(found)
        else:
            kept.append(text)
    if not kept:
        raise InputError(
            f"No document is left after cleaning; rules broken: {dict(broken) or 'none, there were no documents'}"
        )
    return Cleaned(tuple(kept), MappingProxyType(dict(broken)))


def repair_encoding(text: str) -> str:
    """Undo UTF-8 that was read as Windows-1252 ("informaÃ§Ã£o"), and drop control characters but tab and newline."""

    def repaired(match: re.Match[str]) -> str:
        raw = bytearray()
        for char in match[0]:
            try:
                raw += char.encode("cp1252")
            except UnicodeEncodeError:  # five bytes mean nothing there and were taken over as they are
                raw += char.encode("latin-1", errors="replace")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return match[0]

    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", _MOJIBAKE.sub(repaired, text))
