"""Multiple choice: listing options under letters, and reading which of them an answer names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from tokenry.tokens.errors import InputError

_TEXT = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands where an option's text stood while letters are looked for."""
_WORD_LETTERS = "AI"
"""Letters that are words as well."""
_AS_A_WORD = re.compile(rf"\s+(?!(?:and|as|because|but|is|nor|not|or|since)\b)[^\W_]|\s+{_TEXT}")
"""What follows such a letter where it is a word ("A red cat"), and not where it is an option ("A is right")."""
_EMPHASIS = " *_`\"'"
_ANSWER_IS = re.compile(r"\banswer(?:\s+is)?\s*:?$", re.IGNORECASE)
_OPTION = re.compile(r"\b(?:option|choice)\s*:?$", re.IGNORECASE)


def letters(choices: Sequence[str]) -> str:
    """The letters of the options, one each; the whole alphabet where the options are not known.

    Raises:
        InputError: more options than letters.
    """
    if len(choices) > len(ascii_uppercase):
        raise InputError(
            f"There are {len(choices)} options and {len(ascii_uppercase)} letters to name them by. Put the options "
            "into the question, and judge by their text (metric exact)."
        )
    return ascii_uppercase[: len(choices)] or ascii_uppercase


def list_choices(choices: Sequence[str]) -> str:
    """The options as a question lists them, one a line: "A. red", "B. blue".

    Raises:
        InputError: as `letters`.
    """
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters(choices), choices, strict=False))


def meant(reference: str, choices: Sequence[str]) -> str:
    """The letter of the option that a reference means: it is a letter, an option's text, or an index from 0.

    In this order: where options are letters or small numbers themselves, "B" is the second option, and "2" the option
    that reads 2.

    Raises:
        InputError: it is none of them.
    """
    from tokenry.data.questions.examples import normalise_answer

    known = letters(choices)
    if (letter := _bare(reference).upper()) in set(known):
        return letter
    text = normalise_answer(reference)
    same = [known[i] for i, choice in enumerate(choices) if normalise_answer(choice) == text]
    if len(same) == 1:
        return same[0]
    indices = [str(index) for index in range(len(choices))]
    if not same and (index := reference.strip()) in indices:
        return known[indices.index(index)]
    options = "; ".join(list_choices(choices).splitlines()) or "without choices only a letter will do"
    raise InputError(
        f"The reference {reference!r} names no option: it is no letter, not the text of one of them, and no index from "
        f"0 ({options}). Correct it, or choose another metric."
    )


def named(answer: str, choices: Sequence[str]) -> frozenset[str]:
    """The letters of the options that an answer names: those it gives as letters, otherwise those whose text it gives.

    A letter counts if it is the whole answer ("b", "**B**."), stands in or before a bracket ("(b)", "b)"), opens the
    answer before a full stop or colon ("b. a red cat"), follows "answer is", "option" or "choice", or is a capital
    standing alone; not as a part of a word, of an abbreviation or of an option's text ("vitamin C"), nor as an article.
    Where the text of one option is part of another's, the longest counts.
    """
    import regex

    text = " ".join(unicodedata.normalize("NFKC", answer).split())
    known = set(letters(choices))
    if (letter := _bare(text).upper()) in known:
        return frozenset({letter})
    rest, by_text = _without_texts(text, choices)
    single = r"(?<![\p{Latin}\p{N}'’-])(?<!\b\p{L}\.)([A-Za-z])(?![\p{Latin}\p{N}'’-])(?!\.\p{L}\b)"
    by_letter = {
        found.upper()
        for match in regex.finditer(single, rest)
        if (found := match[1]).upper() in known
        and _names_option(found, rest[: match.start()].rstrip(_EMPHASIS), rest[match.end() :])
    }
    return frozenset(by_letter or by_text)


def _names_option(letter: str, before: str, after: str) -> bool:
    """Whether a letter that stands alone, between what is before and after it, is meant as an option's."""
    if after.startswith((")", "]", "}")) or before.endswith(("(", "[", "{")) or _OPTION.search(before):
        return True
    if letter.upper() in _WORD_LETTERS and _AS_A_WORD.match(after):
        return False
    opens = not before and after.startswith((".", ":"))
    return letter.isupper() or opens or _ANSWER_IS.search(before) is not None


def _without_texts(text: str, choices: Sequence[str]) -> tuple[str, frozenset[str]]:
    """A text with a mark in place of each option's text that stands in it, and the letters of those options."""
    import regex

    from tokenry.data.questions.examples import normalise_answer

    known = letters(choices)
    texts: dict[str, set[str]] = {}
    for letter, choice in zip(known, choices, strict=False):
        one = normalise_answer(unicodedata.normalize("NFKC", choice))
        if one and one.upper() not in set(known):  # an option that reads "B" is read as a letter
            texts.setdefault(one, set()).add(letter)
    if not texts:
        return text, frozenset()
    longest_first = sorted(texts, key=len, reverse=True)
    pattern = regex.compile(rf"(?wi)\b(?:{'|'.join(map(regex.escape, longest_first))})\b")
    found = {match[0].lower() for match in pattern.finditer(text)}
    return pattern.sub(_TEXT, text), frozenset().union(*(texts.get(one, set()) for one in found))


def _bare(text: str) -> str:
    """A text without punctuation, brackets and emphasis around it."""
    return text.strip(" .,:;!?\"'`*_()[]{}<>\t\n")
