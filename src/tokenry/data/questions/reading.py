"""What a row of a question file asks: pictures, text, references and options, or why it asks nothing."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from tokenry.data.questions.columns import describe
from tokenry.data.questions.files import Number, Record
from tokenry.tokens.errors import ItemError


@dataclass(frozen=True)
class AskedRecord:
    """What a record asks.

    Attributes:
        images: names of the pictures' files, at least one.
        question: the text.
        answers: the references, as often as they were given; none if the row has none.
        kind: of question; "" if unknown.
        choices: the options, in order; none where the answer is free.
        id: the name that the file gives the question; "" if none.
    """

    images: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    kind: str = ""
    choices: tuple[str, ...] = ()
    id: str = ""

    @property
    def answer(self) -> str | None:
        """The reference that was given most often, of several such the first; None without references."""
        return Counter(self.answers).most_common(1)[0][0] if self.answers else None


def asked(record: Record) -> AskedRecord:
    """What a record asks; its fields are those of `question_columns.COLUMNS`.

    Raises:
        InputError: it cannot be read, names no picture or no question, or its answers or options are in a form that
            is not known.
    """
    if record.problem:
        raise ItemError(record.problem)
    fields = record.fields
    for name, what in (("image", "picture"), ("question", "question")):
        if name not in fields:
            raise ItemError(f"names no {what} ({describe(record.columns, name)})")
    images = tuple(_images(fields["image"]))
    question = fields["question"]
    if not images:
        raise ItemError("its picture is empty")
    if not isinstance(question, str) or not question.strip():
        raise ItemError(f"its question is empty or no text: {str(question)[:60]!r}")
    choices = tuple(_choices(fields.get("choices")))
    main, answers = (tuple(_answers(fields.get(name), choices)) for name in ("answer", "answers"))
    if main and choices:
        answers = main  # the others are what people said to whom no options were shown (A-OKVQA has both)
    else:  # where both stand, `answer` is what somebody made of the `answers`
        answers += tuple(one for one in main if one not in answers)
    kind, name = (_label(fields.get(field)) for field in ("kind", "id"))
    for text in (question, *answers, *choices, kind, name):
        _check_text(text)
    return AskedRecord(images, question.strip(), answers, kind, choices, name)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ItemError(f"holds half of a character ({text[error.start]!a}), which is no text") from error


def _label(given: Any) -> str:
    """A kind or a name: one line of text, empty if there is none."""
    if given is None or isinstance(given, (list, dict)):
        return ""
    return " ".join(str(given).split())


# --------------------------------------------------------------------------------------------------- pictures


def _images(given: Any) -> Iterator[str]:
    """The names in a row: one, a list of such, or of objects with a path."""
    if isinstance(given, str) and not isinstance(given, Number) and (listed := _listed(given)) is not None:
        given = listed
    for one in given if isinstance(given, list) else [given]:
        name = one.get("path") or one.get("file_name") if isinstance(one, dict) else one
        if isinstance(name, str) and name.strip():
            yield name
        elif name is not None and not isinstance(name, str):
            raise ItemError(f"a picture is named by its file's name, not by {str(one)[:60]}")
        elif isinstance(given, list) or isinstance(one, dict):
            raise ItemError(f"one of its pictures has no name: {str(given)[:60]}")


# ---------------------------------------------------------------------------------------------------- options


def _choices(given: Any) -> Iterator[str]:
    """The options in a list, also one that is written into a cell, or in an object by letter."""
    if isinstance(given, str):
        if not given.strip():
            return
        if (listed := _listed(given, numbers=True)) is None:
            raise ItemError(f'options are a list such as ["red", "blue"], not {given[:60]!r}')
        given = listed
    if isinstance(given, dict):
        given = list(given.values())
    if not isinstance(given, (list, NoneType)):
        raise ItemError(f"options are a list, not {str(given)[:60]}")
    for one in given or ():
        if isinstance(one, bool):
            yield str(one).lower()
        elif isinstance(one, (str, int, float)) and str(one).strip():
            yield str(one).strip()
        else:
            raise ItemError(f"an option is a text or a number, not {str(one)[:60]!r}")


# ---------------------------------------------------------------------------------------------------- answers


def _answers(given: Any, choices: Sequence[str], depth: int = 0) -> Iterator[str]:
    """The references in what a row has for an answer.

    A text or number, a list of such, or of objects with an answer each; per annotator there may be several of them.
    """
    if isinstance(given, str) and depth == 0 and (listed := _listed(given)) is not None:
        given = listed
    if given is None or (isinstance(given, str) and not given.strip()):
        return
    if isinstance(given, bool):
        yield _truth(given, choices)
    elif isinstance(given, str):
        yield str(given)
    elif isinstance(given, list) and depth < 3:
        for one in given:
            yield from _answers(one, choices, depth + 1)
    elif (
        isinstance(given, dict)
        and depth < 3
        and (one := given.get("answer", given.get("answers"))) is not None
    ):
        yield from _answers(one, choices, depth + 1)
    else:
        raise ItemError(
            "answers are texts, lists of texts (or of lists, one for each person), or lists of objects with an answer "
            f"each, not {str(given)[:60]}"
        )


def _truth(value: bool, choices: Sequence[str]) -> str:
    """What true and false mean as an answer: yes and no, unless the options say otherwise.

    Not both of yes and true: two references would count as two people's answers.
    """
    yes_no, true_false = ("yes" if value else "no"), str(value).lower()
    options = [choice.casefold() for choice in choices]
    return true_false if true_false in options and yes_no not in options else yes_no


def _listed(text: str, *, numbers: bool = False) -> list[Any] | None:
    """The list that a text is the writing of, in JSON's or Python's form, if it is one of texts or objects.

    A list of numbers may be a text of its own (an interval, a box), unless there is nothing else that it can be.
    """
    text = text.strip()
    kinds = (str, dict, int, float) if numbers else (str, dict)
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list) and found and all(isinstance(one, kinds) for one in found):
            return found
    return None
