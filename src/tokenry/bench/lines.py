"""What every comparison writes: JSON lines that are only ever appended to, by one process at a time.

A line is a dataclass of its own kind (a run, a result, a failure ...), which each sort of comparison declares for
itself (`bench.reducers.results`, `bench.decoders.log`); common to them is how lines get into a file and out of it. What
is read back is what was written: a line that is anything else is told apart, so that the reader may skip and count it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from tokenry.bench.writing import Claim
from tokenry.tokens import InputError
from tokenry.tokens.typed import reader

FORMAT = 1
"""Written into every line; raised when a field changes its meaning. Lines of another format are skipped."""
_LONGEST = 32 << 20
"""Bytes of a line that may be one of ours: a run of a million questions is shorter."""


@runtime_checkable
class Writable(Protocol):
    """A dataclass whose fields are JSON values: a kind of line."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


class ResultsWriter:
    """Appends lines to a results file; every line is one write, so a kill leaves at most one torn line behind.

    Raises:
        InputError: the folder or the file cannot be written, or another run is writing to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with ExitStack() as opened:
            opened.callback(Claim(self.path).release)
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                opened.callback(os.close, self._file)
                size = os.fstat(self._file).st_size
                if size and os.pread(self._file, 1, size - 1) != b"\n":
                    os.write(self._file, b"\n")  # a torn last line stays torn, and alone
            except OSError as error:
                raise InputError(
                    f"Cannot write {self.path}: {error.strerror}. Choose another folder (--out)."
                ) from error
            self._opened = opened.pop_all()

    def append(self, line: Writable) -> None:
        """Write one line.

        Raises:
            InputError: the disk is full or the file has become unwritable.
        """
        content = {"kind": line.kind, "format": FORMAT} | asdict(line)
        data = _json(content, allow_nan=False) + b"\n"
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            raise InputError(
                f"Cannot write {self.path}: {error.strerror}. What was measured before is kept."
            ) from error

    def close(self) -> None:
        """Close the file, and let others write to it."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: Path, kinds: Mapping[str, Any]) -> list[Any]:
    """The lines of a file that a `ResultsWriter` wrote; None for those that are not ours, whole and of this format.

    Args:
        path: the file.
        kinds: the classes of its lines, by their `kind`.

    Raises:
        OSError: it cannot be read.
    """
    return [_parse(line, kinds) for line in _lines(path)]


def _lines(path: Path) -> Iterator[bytes]:
    """The lines that hold something; of one that is too long to be ours, its beginning."""
    with path.open("rb") as file:
        while line := file.readline(_LONGEST):
            rest = line
            while len(rest) == _LONGEST and not rest.endswith(b"\n"):
                rest = file.readline(_LONGEST)
            if line.strip():
                yield line


def _parse(raw: bytes, kinds: Mapping[str, Any]) -> Any:
    try:
        if len(raw) >= _LONGEST:
            return None
        content = json.loads(raw, parse_constant=_not_json)
        cls: Any = kinds[content.pop("kind")]
        if reader(int)(content.pop("format")) != FORMAT:
            return None
        return reader(cls)(content)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def digest(*parts: Any) -> str:
    """A hash of JSON values: equal parts, equal digest, in any process."""
    return hashlib.sha256(_json(parts, sort_keys=True)).hexdigest()[:20]


def _json(content: Any, **options: Any) -> bytes:
    """JSON text as UTF-8. Halves of surrogate pairs, which file names may hold, have no UTF-8 but a JSON escape."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), **options)
    return text.encode("utf-8", "backslashreplace")
