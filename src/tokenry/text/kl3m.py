"""KL3M (arXiv 2503.17247): vocabularies for one domain, and character-level ones for correcting text.

*KL3M Tokenizers: A Family of Domain-Specific and Character-Level Tokenizers for Legal, Financial, and Preprocessing
Applications*. Two recipes on top of byte-level BPE. The domain recipe (`train_domain`) trains on the domain and
reserves whole tokens for its deterministic strings: numbers, years, citations, mark-up, white space. The character
recipe (`train_characters`) keeps tokens so short that a wrong character moves few token boundaries, which
`boundary_consistency` measures.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from tokenizers import AddedToken, Tokenizer, normalizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tokenry.text.training import as_fast, check_size, train_bpe
from tokenry.tokens.errors import InputError

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|start|>", "<|end|>", "<|pad|>", "<|unk|>", "<|sep|>", "<|cls|>", "<|mask|>", "<|system|>", "</|system|>",
    "<|user|>", "</|user|>", "<|instruction|>", "</|instruction|>",
)  # fmt: skip
"""Ids 0 to 12."""

_ROLES = {f"{token[2:-2]}_token": token for token in SPECIAL_TOKENS[2:7]} | {
    "bos_token": SPECIAL_TOKENS[0],
    "eos_token": SPECIAL_TOKENS[1],
}
_TAGS = (
    "html", "head", "body", "div", "span", "img", "table", "thead", "tbody", "tfoot", "tr", "td", "ul", "ol", "li",
    "h1", "h2", "h3", "h4", "iframe", "script", "style", "svg", "input", "button", "form", "label", "select", "option",
    "textarea", "meta", "link", "title", "pre", "code", "row", "column",
)  # fmt: skip
_ATTRIBUTES = ("href", "src", "alt", "title", "class", "id")
_JSON = ('{"', '"}', '["', '"]', '":', '","', '":"', "null", "true", "false")
_XML = ("<!--", "-->", "<![CDATA[", "]]>", "<?xml", "<xml", "</xml>")
_MARKDOWN = (*("#" * n for n in range(2, 7)), "**", "~~", "```", "![")
_ADDRESSES = ("http://", "https://", "www.", "ftp://", "mailto:", "tel:", "://")
_ROMAN = ("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
_ABBREVIATION = re.compile(
    r"\b(?:(?:[A-Z][a-z]{0,3}\.){2,}(?:\d[a-z]{1,2})?"  # U.S.C., S.Ct., F.Supp.2d
    r"|[A-Z]\.\d[a-z]{1,2}"  # F.2d
    r"|[A-Z][a-z]{1,4}\.(?= ?\d))"  # No. 5, Sec. 3
)


def domain_strings(*, lowercase: bool = False) -> tuple[str, ...]:
    """The deterministic strings that get tokens of their own: mark-up, white space, numbers, years, citations.

    Args:
        lowercase: as an uncased vocabulary has them.

    Returns:
        Different strings of two characters or more, sorted.
    """
    letters = string.ascii_lowercase if lowercase else string.ascii_letters
    found = {char * n for char in " \t\r\n.-=_*~" for n in range(2, 9)} | {"\r\n", "\t "}
    found |= {*_MARKDOWN, *_ADDRESSES, *_JSON, *_XML}
    found |= (
        {f"<{tag}" for tag in _TAGS} | {f"</{tag}>" for tag in _TAGS} | {f" {name}=" for name in _ATTRIBUTES}
    )
    found |= {str(n) for n in (*range(10, 1000), *range(1776, 2050))}
    found |= {f"({sign})" for sign in (*letters, *map(str, range(1, 100)), *_ROMAN)}
    if lowercase:
        return tuple(sorted(text.lower() for text in found))
    found |= {f"<{tag.upper()}" for tag in _TAGS} | {f" {name.upper()}=" for name in _ATTRIBUTES}
    return tuple(sorted(found | {f"({sign.upper()})" for sign in _ROMAN}))


def abbreviations(texts: Iterable[str], *, least: int = 20, limit: int = 200) -> tuple[str, ...]:
    """The commonest dotted abbreviations of a corpus (U.S.C., F.2d, Sec. before a number).

    The authors take reporters and case names from a public list; this finds a domain's own in its text.

    Args:
        texts: documents.
        least: occurrences that an abbreviation must have.
        limit: how many to return at most, the commonest first.
    """
    counts = Counter(match for text in texts for match in _ABBREVIATION.findall(text))
    return tuple(text for text, n in counts.most_common(limit) if n >= least)


def train_domain(
    texts: Iterable[str],
    size: int,
    *,
    lowercase: bool = False,
    custom: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    min_frequency: int = 2,
    progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a domain vocabulary (KL3M, arXiv 2503.17247).

    Byte-level BPE after NFKC normalisation takes ``size`` less the custom strings; those it has not learned by itself
    are added, and the rest up to ``size`` is filled with ever longer runs of spaces and newlines. Added strings are
    found before BPE and inside longer ones: "12345" becomes 123|45.

    Where paper and code differ from this: the authors' code doubles a vocabulary that already is a power of two.

    Args:
        texts: documents.
        size: entries of the vocabulary; a power of two.
        lowercase: fold case, in the normaliser and in the custom strings.
        custom: strings with tokens of their own; None: `domain_strings`.
        extra: more of them: the domain's own words, or `abbreviations` of the corpus.
        min_frequency: occurrences a pair needs to be merged (the authors: 1,000, on hundreds of gigabytes).
        progress: show bars.

    Returns:
        The tokenizer, padding on the left; `decode(encode(text))` is the text in normal form NFKC.

    Raises:
        InputError: a size that is no power of two or too small for the strings, or what `train_bpe` raises it for.
    """
    _check_power_of_two(size)
    strings = (*(domain_strings(lowercase=lowercase) if custom is None else custom), *extra)
    wanted = sorted({_normalizer(lowercase).normalize_str(text) for text in strings} - {""})
    check_size(size, SPECIAL_TOKENS, len(wanted))
    core = _train(texts, size - len(wanted), lowercase, min_frequency, None, progress)
    core.add_tokens([AddedToken(text, normalized=True) for text in wanted])
    missing = size - core.get_vocab_size()
    core.add_tokens([AddedToken(run, normalized=True) for run in islice(_runs(set(wanted)), missing)])
    return as_fast(core, padding_side="left", **_ROLES)


def train_characters(
    texts: Iterable[str],
    size: int,
    *,
    max_chars: int | None = None,
    min_frequency: int = 2,
    progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a character-level vocabulary for correcting text (KL3M, arXiv 2503.17247).

    The limit counts bytes: a leading space is one, and an accented or Chinese character two or three.

    Args:
        texts: documents.
        size: entries of the vocabulary; a power of two.
        max_chars: longest token in bytes; None: 3 up to 8,192 entries, 4 beyond, as the authors have it.
        min_frequency: occurrences a pair needs to be merged (the authors: 1,000).
        progress: show bars.

    Returns:
        The tokenizer, padding on the left; `decode(encode(text))` is the text in normal form NFKC.

    Raises:
        InputError: a size that is no power of two, or what `train_bpe` raises it for.
    """
    _check_power_of_two(size)
    if max_chars is None:
        max_chars = 3 if size <= 8192 else 4
    core = _train(texts, size, False, min_frequency, max_chars, progress)
    return as_fast(core, padding_side="left", **_ROLES)


@dataclass(frozen=True)
class Corrupted:
    """A text with errors in it.

    Attributes:
        text: the noisy text.
        origin: for each of its positions, end included, the position in the clean text that it comes from.
    """

    text: str
    origin: tuple[int, ...]


_CONFUSED = {
    "l": "1",
    "1": "l",
    "O": "0",
    "0": "O",
    "S": "5",
    "5": "S",
    "B": "8",
    "8": "B",
    "e": "c",
    "c": "e",
}
"""Characters that optical recognition takes for one another."""


def corrupt(text: str, rate: float, *, seed: int = 0, errors: Sequence[str] = ("substitute",)) -> Corrupted:
    """Put errors into a text, as scanning and typing do.

    Args:
        text: clean text.
        rate: share of its characters that an error befalls.
        seed: of the draws.
        errors: kinds to draw from: "substitute" (by a random letter), "confuse" (as optical recognition does), "drop",
            "swap" (with the next character).

    Raises:
        InputError: a rate outside [0, 1], or an error of another kind.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"The rate of errors is {rate}; it is a share between 0 and 1.")
    if unknown := set(errors) - {"substitute", "confuse", "drop", "swap"}:
        raise InputError(
            f"Errors {sorted(unknown)} are not known; there are substitute, confuse, drop and swap."
        )
    draw = random.Random(seed)
    out: list[str] = []
    origin: list[int] = []
    at = 0
    while at < len(text):
        kind = draw.choice(tuple(errors)) if errors and draw.random() < rate else ""
        step = 2 if kind == "swap" and at + 1 < len(text) else 1
        match kind:
            case "substitute":
                new = draw.choice(string.ascii_letters.replace(text[at], ""))
            case "confuse":
                new = _CONFUSED.get(text[at], text[at])
            case "drop":
                new = ""
            case _:
                new = text[at : at + step][::-1]
        out.append(new)
        origin.extend(range(at, at + len(new)))
        at += step
    return Corrupted("".join(out), (*origin, len(text)))


def boundary_consistency(tokenizer: PreTrainedTokenizerBase, clean: str, noisy: Corrupted | str) -> float:
    """How much of the token boundaries of a text survives errors in it: shared boundaries over all boundaries.

    Args:
        tokenizer: any fast tokenizer.
        clean: the text.
        noisy: the same with errors; as a plain string it must be as long as the clean text.

    Returns:
        Between 0 and 1; 1 where nothing changes.

    Raises:
        InputError: a noisy text of another length that does not say where its characters come from.
    """
    if isinstance(noisy, str):
        if len(noisy) != len(clean):
            raise InputError(
                f"The noisy text has {len(noisy)} characters, the clean one {len(clean)}: which belongs to which "
                "must be told. Use `corrupt`, or a `Corrupted` with its origins."
            )
        noisy = Corrupted(noisy, tuple(range(len(noisy) + 1)))
    before = _boundaries(tokenizer, clean)
    after = {noisy.origin[at] for at in _boundaries(tokenizer, noisy.text)}
    return len(before & after) / len(before | after) if before | after else 1.0


def _boundaries(tokenizer: PreTrainedTokenizerBase, text: str) -> set[int]:
    """Where tokens begin, in characters."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return {start for start, _ in spans}


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    nfkc = normalizers.NFKC()
    return normalizers.Sequence([nfkc, normalizers.Lowercase()]) if lowercase else nfkc


def _train(
    texts: Iterable[str], size: int, lowercase: bool, min_frequency: int, longest: int | None, progress: bool
) -> Tokenizer:
    trained = train_bpe(
        texts,
        size,
        normalizer=_normalizer(lowercase),
        min_frequency=min_frequency,
        special_tokens=SPECIAL_TOKENS,
        max_token_length=longest,
        progress=progress,
    )
    return trained.backend_tokenizer


def _runs(taken: Container[str]) -> Iterator[str]:
    """Runs of spaces and newlines that are not taken, growing without end."""
    for length in count(2):
        for char in " \n":
            if char * length not in taken:
                yield char * length


def _check_power_of_two(size: int) -> None:
    if size < 1 or size & (size - 1):
        above = 1 << max(10, size.bit_length())
        raise InputError(
            f"A KL3M vocabulary has a power of two entries, not {size:,}; ask for {above // 2:,} or {above:,}."
        )
