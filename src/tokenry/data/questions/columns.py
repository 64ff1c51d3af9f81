"""The columns of question files: what people call picture, question, answer, kind, options and name of a question."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any, Final

from tokenry.tokens.errors import InputError, ItemError


@dataclass(frozen=True)
class Column:
    """A field of a question, by the names that files give it.

    Attributes:
        names: in order of precedence: where a file has several of them, the first counts.
        help: what it holds, in one line.
    """

    names: tuple[str, ...]
    help: str


COLUMNS: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "image": Column(
            ("image", "images", "image_path", "image_paths", "image_file", "image_name", "file_name", "file_names",
             "img", "img_path", "img_name", "picture", "pictures", "photo", "file", "path"),
            "the picture's file, relative to the question file; a list for several; or image_1, image_2 ...",
        ),
        "image_id": Column(("image_id",), "the picture's file by number or by name without ending"),
        "question": Column(
            ("question", "query", "prompt", "text", "instruction"),
            "the text put to the model",
        ),
        "answer": Column(
            ("answer", "label", "ground_truth", "gt_answer", "gt", "reference", "target", "multiple_choice_answer",
             "correct_answer", "correct_choice_idx"),
            "the right answer: text, number, true or false, or a list of right answers; a letter, an index from 0 or "
            "the text of an option where there are options",
        ),
        "answers": Column(
            ("answers", "labels", "ground_truths", "references", "targets", "direct_answers"),
            "all right answers, as often as they were given; where there are options, only if there is no `answer`",
        ),
        "choices": Column(
            ("choices", "options"),
            "the options of a multiple-choice question, a list; or columns A, B, C ... (or option_a ...)",
        ),
        "kind": Column(
            ("kind", "category", "question_type", "answer_type", "type", "topic", "task"),
            "the kind of question, by which results are grouped",
        ),
        "id": Column(("id", "question_id", "qid", "uid"), "a name for the question; its place in the file by default"),
    }
)  # fmt: skip
"""What a question consists of, by the name that it has here."""

_NUMBERED_IMAGE: Final = re.compile(r"(?:image|img|picture)(\d{1,9})")
_OPTION: Final = re.compile(r"(?:option|choice)?([a-z])")


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """A column's name without what people vary: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


_PLACES: Final = {plain(name): field for field, column in COLUMNS.items() for name in column.names}


def known_fields(names: Iterable[str]) -> frozenset[str]:
    """What some names of columns mean here."""
    return frozenset(_PLACES[plain(name)] for name in names if plain(name) in _PLACES)


def expected(field: str) -> str:
    """The names that a field may have, for messages."""
    return ", ".join(COLUMNS[field].names)


def describe(columns: Sequence[str], field: str) -> str:
    """What was found and what was looked for, for messages."""
    found = ", ".join(repr(name[:60]) for name in columns[:20]) + (" ..." if len(columns) > 20 else "")
    return f"found columns: {found or 'none'}; expected one of: {expected(field)}"


def check_names(names: Sequence[str], what: str) -> None:
    """See that a table's first line names what a question needs, each once.

    Raises:
        InputError: it does not.
    """
    plain_names = [plain(name) for name in names]
    for name, known in zip(names, plain_names, strict=True):
        if known in _PLACES and plain_names.count(known) > 1:
            raise InputError(
                f"{what} has two columns {name!r}. Which of them is meant? Rename or remove the other."
            )
    fields = named(dict.fromkeys(names, "x"))
    if "image" not in fields and "image_id" not in fields:
        raise InputError(f"{what} names no picture ({describe(names, 'image')}).")
    if "question" not in fields:
        raise InputError(f"{what} names no question ({describe(names, 'question')}).")


def named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields by the names that they have here; what means nothing here is left out.

    Pictures in columns `image_1`, `image_2` ... become one list, and so do options in columns `A`, `B` ...

    Raises:
        InputError: two columns are one but for case or spaces, or an option between two others is missing.
    """
    by_name: dict[str, Any] = {}
    for name, value in fields.items():
        if plain(name) in by_name and plain(name) in _PLACES:
            raise ItemError(f"has two columns {name!r}")
        by_name[plain(name)] = value
    found = {}
    for field, column in COLUMNS.items():
        given = [name for name in map(plain, column.names) if name in by_name]
        if given:
            found[field] = by_name[given[0]]
    if "image" not in found and (numbered := _numbered_images(by_name)):
        found["image"] = numbered
    if "choices" not in found and (options := _lettered_options(by_name)):
        found["choices"] = options
    return found


def _numbered_images(by_name: Mapping[str, Any]) -> list[Any]:
    numbered = {
        int(match[1]): value for name, value in by_name.items() if (match := _NUMBERED_IMAGE.fullmatch(name))
    }
    return [value for _, value in sorted(numbered.items()) if not _is_empty(value)]


def _lettered_options(by_name: Mapping[str, Any]) -> list[Any]:
    """Options in columns of their own, from A on, at least two; the last ones may be empty."""
    lettered = {match[1]: value for name, value in by_name.items() if (match := _OPTION.fullmatch(name))}
    options = []
    for letter in ascii_lowercase:
        if letter not in lettered:
            break
        options.append(lettered[letter])
    if len(options) < 2:
        return []
    while options and _is_empty(options[-1]):
        options.pop()
    if any(map(_is_empty, options)):
        raise ItemError("an option between two others is empty, so that the letters do not fit")
    return options


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
