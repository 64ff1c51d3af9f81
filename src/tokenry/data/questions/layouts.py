"""Layouts of question files: how known data sets lay out a question, brought to the one form that is judged.

A layout takes a row as the file has it and gives records whose fields are those of `question_columns.COLUMNS`. The
first layout that fits a row reads it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from PIL import Image

from tokenry.data.questions.columns import named, plain
from tokenry.data.questions.files import Record, read_rows
from tokenry.tokens.errors import InputError, ItemError

MARKER: Final = "<image>"
"""What stands for a picture in the text of a conversation."""
_ASKING: Final = frozenset({"human", "user"})
_ANSWERING: Final = frozenset({"gpt", "assistant", "model"})
_TURNS: Final = ("conversations", "conversation", "messages")


class Surroundings:
    """What lies beside a question file and is read only if a layout asks for it.

    Attributes:
        file: the question file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def annotations(self) -> Mapping[str, Mapping[str, Any]]:
        """Answers that a second file, with "annotations" in its name, gives by the question's id.

        Raises:
            InputError: several such files, none of which is named as the question file is.
        """
        folder = self.file.parent
        found = [
            name
            for name in sorted(os.listdir(folder))
            if "annotations" in name.lower() and name.lower().endswith(".json") and name != self.file.name
        ]
        partners = [name for name in found if _without_role(name) == _without_role(self.file.name)] or found
        if len(partners) > 1:
            raise InputError(
                f"Several files may hold the answers to {self.file.name!r}: {', '.join(map(repr, partners))}. Leave "
                "one of them, or name it like the questions, with annotations for questions."
            )
        return {
            str(row.fields["question_id"]): row.fields
            for name in partners
            for row in read_rows(folder / name)
            if "question_id" in row.fields
        }

    def picture(self, given: Any) -> str:
        """The file in or below the folder that a picture's id means: by its name, or by the number it ends with.

        Raises:
            InputError: there is none, or there are several.
        """
        name = str(given).strip()
        by_name, by_number = self._pictures
        found = by_name.get(name) or (
            by_number.get(int(name)) if name.isdecimal() and len(name) < 20 else None
        )
        if not found:
            raise ItemError(f"no picture in the folder is called {name!r} or ends with this number")
        if len(found) > 1:
            raise ItemError(
                f"several pictures are called {name!r}: {', '.join(map(repr, sorted(found)[:3]))}"
            )
        return found[0]

    @cached_property
    def _pictures(self) -> tuple[Mapping[str, list[str]], Mapping[int, list[str]]]:
        """The pictures below the folder, by name with and without ending, and by the number at its end."""
        endings = Image.registered_extensions()
        by_name: defaultdict[str, list[str]] = defaultdict(list)
        by_number: defaultdict[int, list[str]] = defaultdict(list)
        for place, _, names in os.walk(self.file.parent):
            for name in names:
                stem, ending = os.path.splitext(name)
                if ending.lower() not in endings:
                    continue
                path = os.path.relpath(os.path.join(place, name), self.file.parent)
                by_name[stem].append(path)
                by_name[name].append(path)
                if match := re.search(r"\d{1,19}$", stem):
                    by_number[int(match[0])].append(path)
        return by_name, by_number


def _without_role(name: str) -> str:
    """VQA v2 calls its files v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json."""
    return re.sub(r"openended|multiplechoice|questions|annotations|[_-]", "", name.lower())


@dataclass(frozen=True)
class Layout:
    """How a data set lays out its questions.

    Attributes:
        help: what is where, in one line.
        fits: whether a row, by the plain names of its fields, is laid out so.
        read: the records of a row.
        annotated: whether the answers may stand in a second file.
    """

    help: str
    fits: Callable[[frozenset[str]], bool]
    read: Callable[[Record, Surroundings], Iterator[Record]]
    annotated: bool = False


def read_records(path: Path) -> Iterator[Record]:
    """The questions of a file, with fields named as in `question_columns.COLUMNS`, as far as they are asked for.

    Raises:
        InputError: the file is no text, or its structure as a whole cannot be understood.
    """
    beside = Surroundings(path)
    for row in read_rows(path):
        if row.problem:
            yield row
            continue
        names = frozenset(map(plain, row.fields))
        layout = next(layout for layout in LAYOUTS.values() if layout.fits(names))
        if layout.annotated:
            _ = beside.annotations  # here, because if they cannot be read it is no fault of this row
        try:
            yield from layout.read(row, beside)
        except InputError as error:
            yield replace(row, problem=str(error))


# ---------------------------------------------------------------------------------------------- conversations


def _conversation(row: Record, beside: Surroundings) -> Iterator[Record]:
    """Every question of a conversation with the answer that follows it, each for itself."""
    turns = next(row.fields[name] for name in row.fields if plain(name) in _TURNS)
    fields = {name: value for name, value in named(row.fields).items() if name in ("image", "kind", "id")}
    pictures = fields.get("image")
    markers = len(pictures) if isinstance(pictures, list) else 1
    asked = 0
    waiting: Record | None = None
    for role, text in _turns(turns):
        if role in _ASKING:
            if waiting is not None:
                yield waiting
            asked += 1
            text, taken = _without_markers(text, markers)
            markers -= taken
            waiting = replace(row, fields={**fields, **_numbered(fields, row, asked), "question": text})
        elif role in _ANSWERING and waiting is not None:
            yield replace(waiting, fields={**waiting.fields, "answer": text})
            waiting = None
    if waiting is not None:
        yield waiting
    if not asked:
        raise ItemError("the conversation has no turn of a human")


def _numbered(fields: Mapping[str, Any], row: Record, number: int) -> Mapping[str, str]:
    """A name for one of a conversation's questions: what they share, and which it is."""
    return {"id": f"{fields.get('id') or row.place}/{number}"}


def _turns(turns: Any) -> Iterator[tuple[str, str]]:
    """(who, what) of the turns: {"from": "human", "value": ...} or {"role": "user", "content": ...}."""
    if not isinstance(turns, list):
        raise ItemError(f"a conversation is a list of turns, not {str(turns)[:60]}")
    for turn in turns:
        who = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
        what = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if isinstance(what, list):  # parts, of which the pictures are named elsewhere
            what = "\n".join(
                part["text"] for part in what if isinstance(part, dict) and _is_text(part.get("text"))
            )
        if not (isinstance(who, str) and isinstance(what, str)):
            raise ItemError(
                'a turn is {"from": "human", "value": "..."} or {"role": "user", "content": "..."}, not '
                f"{str(turn)[:60]}"
            )
        yield who.lower(), what


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _without_markers(text: str, most: int) -> tuple[str, int]:
    """A turn without the markers that say where its pictures go, before or, in lines of their own, after the text.

    A marker that stands in the text is part of it, and so are more of them than there are pictures.
    """
    taken = 0
    while taken < most and text.lstrip().startswith(MARKER):
        text, taken = text.lstrip().removeprefix(MARKER).lstrip(), taken + 1
    while taken < most and (match := re.search(rf"\n\s*{MARKER}\s*$", text)):
        text, taken = text[: match.start()], taken + 1
    return text, taken


# ------------------------------------------------------------------------------------ pictures by their numbers


def _by_picture_id(row: Record, beside: Surroundings) -> Iterator[Record]:
    """A question about a picture that is named by an id, its answers in the row or in a file of annotations."""
    asked = next((str(value) for name, value in row.fields.items() if plain(name) == "questionid"), "")
    fields = named({**beside.annotations.get(asked, {}), **row.fields})
    yield replace(row, fields={**fields, "image": beside.picture(fields["image_id"])})


# ---------------------------------------------------------------------------------------------------- columns


def _columns(row: Record, beside: Surroundings) -> Iterator[Record]:
    yield replace(row, fields=named(row.fields))


def _names_picture(names: frozenset[str]) -> bool:
    return "image" in named(dict.fromkeys(names, "x"))


LAYOUTS: Final[Mapping[str, Layout]] = MappingProxyType(
    {
        "LLaVA": Layout(
            'image and conversations, [{"from": "human", "value": "<image>\\n..."}, {"from": "gpt", "value": "..."}], '
            "or messages with role and content: every question is asked for itself",
            lambda names: any(turns in names for turns in _TURNS),
            _conversation,
        ),
        "VQA v2": Layout(
            "questions with image_id and question_id, pictures whose names end with this number "
            "(COCO_val2014_000000000042.jpg), answers in a second file with annotations in its name, or in the row",
            lambda names: "imageid" in names and not _names_picture(names),
            _by_picture_id,
            annotated=True,
        ),
        "columns": Layout(
            "image and question, if known answer, kind, choices and id, under any of their names; metadata.jsonl and "
            "metadata.csv of Hugging Face's imagefolder are such files",
            lambda names: True,
            _columns,
        ),
    }
)  # fmt: skip
"""How questions are laid out, by whose layout it is, in the order in which they are tried."""
