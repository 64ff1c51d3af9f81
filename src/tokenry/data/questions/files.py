"""Question files by format: the rows of JSON Lines, JSON, CSV or TSV as named fields, and where each of them stands.

What the fields mean is not asked here: `question_columns` knows their names, `question_layouts` the shapes of known
data sets, and `questions.asked` judges what comes of it.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tokenry.data.questions.columns import check_names, known_fields
from tokenry.tokens.errors import InputError, ItemError

LISTS: Final = ("questions", "data", "examples", "samples", "rows", "items", "records", "annotations")
"""Where in a JSON object the list of rows stands, in order of precedence."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SEPARATORS: Final = MappingProxyType({",": "commas", ";": "semicolons", "\t": "tabs"})
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?\s*')
"""First line with which Excel tells itself what divides the cells."""


class Number(str):
    """A number as the file writes it: 7.0 is not 7, and 1e3 not 1000, until somebody says so."""

    __slots__ = ()


@dataclass(frozen=True)
class Record:
    """One row of a question file.

    Attributes:
        place: for people: file and line ("questions.csv:7"), or file and number of the entry ("questions.json#7").
        fields: by name.
        problem: why the row cannot be read; empty if it can.
        columns: the names that the file gives its fields.
    """

    place: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A way to write rows into a file.

    Attributes:
        help: what such a file looks like, in one line.
        read: its rows, one after the other.
    """

    help: str
    read: Callable[[Path], Iterator[Record]]


def find_question_file(path: Path) -> Path:
    """The question file that a path means: the file itself, or the only one in a folder, or the one called questions.

    Raises:
        InputError: there is none, there are several, or its ending is not known.
    """
    if os.path.isfile(path):
        if path.suffix.lower() not in FORMATS:
            raise InputError(
                f"{str(path)!r} is no question file: its name ends in none of {', '.join(FORMATS)}. Save a spreadsheet "
                "as CSV."
            )
        return path
    if not os.path.isdir(path):
        raise InputError(f"{str(path)!r} is not a folder and not a file.")
    try:
        names = sorted(name for name in os.listdir(path) if _is_candidate(name))
    except OSError as error:
        raise InputError(f"The folder {str(path)!r} cannot be read: {error.strerror}.") from error
    called = [name for name in names if Path(name).stem.lower() == "questions"]
    found = called or [name for name in names if "annotations" not in name.lower()] or names
    files = [name for name in found if os.path.isfile(path / name)]
    if len(files) == 1:
        return path / files[0]
    if files:
        raise InputError(
            f"{str(path)!r} has {len(files)} files that may hold the questions: {_listing(files)}. Name the one that "
            "is meant instead of its folder, or call it questions with its ending."
        )
    instead = f" ({_listing(found)} is no file)" if found else ""
    raise InputError(
        f"{str(path)!r} has no questions.jsonl, nor any other file of questions (endings: {', '.join(FORMATS)})"
        f"{instead}. It needs one row for each question, with image, question and, if known, answer."
    )


def _is_candidate(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in FORMATS


def _listing(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def read_rows(path: Path) -> Iterator[Record]:
    """Read a question file row by row, as far as it is asked for.

    Raises:
        InputError: it is no text, or its structure as a whole cannot be understood.
    """
    yield from FORMATS[path.suffix.lower()].read(path)


# ------------------------------------------------------------------------------------------------------- text


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text in UTF-8, or UTF-16 or -32 with their marks, each with the end that it has (LF, CRLF, CR)."""
    coding = "utf-8"
    try:
        with path.open("rb") as data:
            start = data.read(4)
        coding = next((name for mark, name in _MARKS if start.startswith(mark)), coding)
        # Not splitlines(): JSON texts may hold U+2028 and other characters that divide lines for Python.
        with path.open(encoding=coding, newline="") as text:
            for number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise InputError(
                        f"{str(path)!r} holds a NUL character in line {number}, so it is no text, or UTF-16 without "
                        "the mark at its beginning that says so. Save it as UTF-8."
                    )
                yield line
    except UnicodeDecodeError as error:
        raise InputError(_undecodable(path, coding)) from error
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.") from error


def _undecodable(path: Path, coding: str) -> str:
    """Which byte of a file is no text. A stream knows only its own chunk, so the file is read once more."""
    data = path.read_bytes()
    name = coding.upper().removesuffix("-SIG")
    try:
        data.decode(coding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(coding, errors="ignore")
        line = 1 + before.count("\n") + before.count("\r") - before.count("\r\n")
        return (
            f"{str(path)!r} is not {name}: byte 0x{data[error.start]:02x} at {error.start}, in line {line}. If it "
            "comes from Excel, save it as 'CSV UTF-8'; or convert it, from Windows-1252 for example with: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path.name!r} > {path.stem + '-utf-8' + path.suffix!r}"
        )
    return f"{str(path)!r} is not {name}, or changed while it was read."


# ------------------------------------------------------------------------------------------------------- JSON


def _parse(text: str) -> Any:
    """JSON with numbers as they are written and NaN, which pandas writes for what is missing, as null.

    Raises:
        InputError: it is none, nested too deeply, or names a field twice.
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=Number,
            parse_float=Number,
            parse_constant=lambda name: None if name == "NaN" else Number(name),
        )
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""  # a line of a file is known by its place
        raise ItemError(f"no JSON: {error.msg} ({line}column {error.colno})") from error
    except RecursionError as error:
        raise ItemError("JSON that is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ItemError(f"an object names {twice!r} twice")
    return found


def _json(path: Path) -> Iterator[Record]:
    """JSON Lines or one JSON document: people give either of them either ending."""
    first = list(islice((line for line in _lines(path) if line.strip()), 2))
    yield from _json_lines(path) if _is_lines(path, first) else _json_document(path)


def _is_lines(path: Path, first: Sequence[str]) -> bool:
    """Whether a file holds an object a line, as far as its ending and its first two lines say."""
    if path.suffix.lower() == ".json":
        return len(first) > 1 and _is_row(first[0])
    return not (first and first[0].lstrip().startswith("["))


def _is_row(line: str) -> bool:
    """Whether a line is an object for itself, and not one that holds the rows."""
    try:
        value = _parse(line)
    except InputError:
        return False
    return isinstance(value, dict) and _rows(value) == [value]


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            yield _record(place, _parse(line.rstrip()))
        except InputError as error:
            yield Record(place, problem=str(error))


def _json_document(path: Path) -> Iterator[Record]:
    text = "".join(_lines(path))
    if not text.strip():
        raise InputError(
            f"{str(path)!r} is empty. It needs an object for each question, with image and question."
        )
    try:
        value = _parse(text)
    except InputError as error:
        raise InputError(f"{str(path)!r} cannot be used: {error}.") from error
    for number, row in enumerate(_rows(value), start=1):
        yield _record(f"{path.name}#{number}", row)


def _rows(value: Any) -> list[Any]:
    """The rows in a JSON document: a list, a list in an object, an object of rows by id, or one row."""
    if not isinstance(value, dict):
        return value if isinstance(value, list) else [value]
    if {"image", "question"} <= known_fields(value):
        return [value]  # its lists are its own
    for name in LISTS:
        if isinstance(value.get(name), list) and all(isinstance(row, dict) for row in value[name]):
            return list(value[name])
    if value and all(isinstance(row, dict) for row in value.values()):
        return [{"id": key, **row} for key, row in value.items()]
    return [value]


def _record(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        return Record(place, problem="no JSON object")
    return Record(place, value, columns=tuple(value))


# ------------------------------------------------------------------------------------------------------- CSV


def _table(path: Path, separators: Sequence[str]) -> Iterator[Record]:
    """Rows of cells, named by the first line, which alone decides what divides them."""
    lines = _lines(path)
    before, header = 0, ""
    for header in lines:
        if match := _SEPARATOR_LINE.fullmatch(header):
            separators = (match[1],)
        elif header.strip():
            break
        before += 1
    else:
        raise InputError(
            f"{str(path)!r} is empty. Its first line names the columns: image, question, answer."
        )
    separator = max(separators, key=lambda one: len(known_fields(_cells(header, one))))
    rows = csv.reader(chain([header], lines), delimiter=separator, strict=True)
    names: list[str] = []
    while True:
        number = before + rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            raise InputError(
                f"{str(path)!r} cannot be read from line {number} on: {error}. A quotation mark that begins a cell "
                "needs another that ends it, and one inside of it is written twice; pictures written into the table "
                "(base64) are not read."
            ) from error
        if not names:
            names = [name.strip() for name in row]
            check_names(names, f"The first line of {str(path)!r}")
        elif any(cell.strip() for cell in row):
            yield _row(f"{path.name}:{number}", names, row, separator)


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []  # its quotation marks stand elsewhere, so this is not what divides it


def _row(place: str, names: Sequence[str], cells: Sequence[str], separator: str) -> Record:
    if len(cells) == len(names):
        return Record(place, dict(zip(names, cells, strict=True)), columns=tuple(names))
    divided = _SEPARATORS.get(separator, repr(separator))
    problem = (
        f"{len(cells)} cells where the first line names {len(names)} (a text with {divided} in it needs quotation "
        f"marks around it): {separator.join(cells)[:60]}"
    )
    return Record(place, problem=problem)


def _comma_separated(path: Path) -> Iterator[Record]:
    return _table(path, tuple(_SEPARATORS))


def _tab_separated(path: Path) -> Iterator[Record]:
    return _table(path, ("\t",))


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        ".jsonl": Format("JSON Lines: an object a line; a line that cannot be read costs no other", _json),
        ".json": Format(f"a list of objects, alone or in an object under {', '.join(LISTS)}", _json),
        ".csv": Format("a table with commas, semicolons or tabs; the first line names the columns", _comma_separated),
        ".tsv": Format("a table with tabs; the first line names the columns", _tab_separated),
    }
)  # fmt: skip
"""How question files are written, by the ending of their names."""
