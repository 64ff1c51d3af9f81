"""Question files: rows of JSON Lines or CSV, and what each of them asks.

A file is read in two steps. A reader (one for each ending of a file's name) makes records: named fields, or why a row
has none. `asked` then finds picture, question, answers and kind in a record, whatever it came from.
"""

from __future__ import annotations

import ast
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tokenry.data.corpora import read_text
from tokenry.tokens.errors import InputError

_REQUIRED: Final = ("image", "question")


@dataclass(frozen=True)
class Record:
    """One row of a question file.

    Attributes:
        number: of the row, for people; the first line is 1.
        fields: by name.
        problem: why the row cannot be read; empty if it can.
    """

    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Asked:
    """What a record asks.

    Attributes:
        image: name of the picture's file.
        question: the text.
        answers: the references, as often as they were given; none if the row has none.
        kind: of question; "" if unknown.
    """

    image: str
    question: str
    answers: tuple[str, ...]
    kind: str

    @property
    def answer(self) -> str | None:
        """The reference that was given most often, of several such the first; None without references."""
        return Counter(self.answers).most_common(1)[0][0] if self.answers else None


def read_records(path: Path) -> Iterator[Record]:
    """Read a question file, UTF-8 with or without a byte-order mark.

    Raises:
        InputError: it is no such text, or its structure as a whole cannot be understood.
    """
    yield from READERS[path.suffix](path, read_text(path))


def asked(record: Record) -> Asked:
    """What a record asks.

    Raises:
        InputError: it cannot be read, names no picture or no question, or its answers are in a form that is not known.
    """
    if record.problem:
        raise InputError(record.problem)
    image, question = (record.fields.get(name) for name in _REQUIRED)
    if not (isinstance(image, str) and image and isinstance(question, str) and question.strip()):
        raise InputError("no image or no question")
    # Where both stand, `answer` is what somebody made of the `answers`.
    main, answers = (tuple(_answers(record.fields.get(name))) for name in ("answer", "answers"))
    answers += tuple(one for one in main if one not in answers)
    return Asked(image, question.strip(), answers, str(record.fields.get("kind") or ""))


def _answers(given: Any) -> Iterator[str]:
    """The references in what a row has for an answer: a text or number, a list of such, or of objects with one each."""
    if given is None:
        return
    if isinstance(given, str):
        if (listed := _listed(given)) is not None:
            yield from _answers(listed)
        elif given.strip():
            yield given
    elif isinstance(given, bool):
        yield str(given).lower()
    elif isinstance(given, (int, float)):
        yield str(given)
    elif isinstance(given, list):
        for one in given:
            if isinstance(one, list):
                raise InputError(f"an answer is a list in a list: {str(given)[:60]}")
            yield from _answers(one)
    elif isinstance(given, dict) and given.get("answer") is not None:
        yield from _answers(given["answer"])
    else:
        raise InputError(
            f"answers are texts, lists of texts, or lists of objects with an answer each, not {str(given)[:60]}"
        )


def _listed(text: str) -> list[Any] | None:
    """The list that a text is the writing of, in JSON's or Python's form, if it is one of texts or objects."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list) and found and all(isinstance(one, (str, dict)) for one in found):
            return found
    return None


def _json_lines(path: Path, text: str) -> Iterator[Record]:
    # Not splitlines(): JSON texts may hold U+2028 and other characters that divide lines for Python.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            yield Record(number, problem=f"no JSON: {error}")
            continue
        yield Record(number, row) if isinstance(row, dict) else Record(number, problem="no JSON object")


def _comma_separated(path: Path, text: str) -> Iterator[Record]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        written = [row for row in rows if row]
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be read from line {rows.line_num} on: {error}. A quotation mark that begins a cell needs "
            "another that ends it."
        ) from error
    names = [name.strip() for name in written[0]] if written else []
    twice = {name for name in names if name and names.count(name) > 1}
    if twice or not set(_REQUIRED) <= set(names):
        wrong = (
            f"has two columns {twice.pop()!r}" if twice else "does not name the columns image and question"
        )
        raise InputError(f"The first line of {path} {wrong}; it reads: {','.join(names)[:80]}")
    for number, row in enumerate(written[1:], start=2):
        if len(row) == len(names):
            yield Record(number, dict(zip(names, row, strict=True)))
        else:
            yield Record(
                number,
                problem=f"{len(row)} cells where the first line names {len(names)} (a text with commas in it needs "
                f"quotation marks around it): {','.join(row)[:60]}",
            )


READERS: Final[Mapping[str, Callable[[Path, str], Iterator[Record]]]] = MappingProxyType(
    {".jsonl": _json_lines, ".csv": _comma_separated}
)
"""What reads a question file, by the ending of its name."""
