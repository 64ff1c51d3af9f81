"""Committed reproductions: `docs/results/SLUG.json`, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.catalog.card import Card
from tokenry.tokens.errors import TokenryError

REQUIRED = ("claim", "ours", "baseline", "ratio", "seeds", "verdict", "machine", "versions", "date")
VERDICTS = ("shown", "partly", "not shown")
BOUNDS = ("at least", "above", "at most")


@dataclass(frozen=True)
class ReportedCriterion:
    """One thing that was to hold, written down before the first full run.

    Attributes:
        name: What was to hold, in words.
        bound: "at least 3", as text.
        measured: What was measured, as text.
        interval: Its interval of 95 % as text; empty where there is none.
        holds: Whether it does.
        decisive: Whether the verdict depends on it.
    """

    name: str
    bound: str
    measured: str
    interval: str
    holds: bool
    decisive: bool

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> ReportedCriterion:
        """As it stands in a result file."""
        return cls(
            name=name,
            bound=", ".join(f"{bound} {text(values[bound])}" for bound in BOUNDS if bound in values),
            measured=text(values["value"]),
            interval=" to ".join(map(text, values.get("interval", ()))),
            holds=values["holds"],
            decisive=values["decisive"],
        )


@dataclass(frozen=True)
class Result:
    """What one reproduction found.

    Attributes:
        path: The file that it was read from.
        values: Its content; `REQUIRED` keys are present, further ones belong to the reproduction.
    """

    path: Path
    values: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return str(self.values["verdict"])

    @property
    def criteria(self) -> tuple[ReportedCriterion, ...]:
        """What was to hold, those that decide the verdict first."""
        found = [
            ReportedCriterion.of(name, values) for name, values in self.values.get("criteria", {}).items()
        ]
        return tuple(sorted(found, key=lambda criterion: not criterion.decisive))

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield label and value of every entry but those of `tables`, as text; nested ones as "outer, inner"."""
        for key, value in self.values.items():
            if _records(value) is None:
                yield from _rows(key, value)

    def tables(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield every entry that is a table as (label, records), the name of each record in its first column.

        A table maps names to records, or names to rows of equal length of which the first holds the columns' names.
        """
        for key, value in self.values.items():
            if (records := _records(value)) is not None:
                yield key, records


def read(path: Path) -> Result:
    """Read a reproduction's result.

    Raises:
        TokenryError: If the file is not JSON, lacks a required key or has no valid verdict.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenryError(f"Result {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise TokenryError(
            f"Result {path} is a {type(values).__name__}; expected an object with {', '.join(REQUIRED)}"
        )
    if missing := [key for key in REQUIRED if key not in values]:
        raise TokenryError(f"Result {path} lacks {', '.join(missing)}")
    if values["verdict"] not in VERDICTS:
        raise TokenryError(f"Result {path}: verdict {values['verdict']!r} is none of {', '.join(VERDICTS)}")
    return Result(path, values)


def find(card: Card, root: Path | None = None) -> Result | None:
    """Return a system's committed result, or None where there is none.

    Args:
        card: The system.
        root: The repository; by default the checkout that tokenry runs from. Results are not part of an installed
            wheel, so there the answer is None.
    """
    root = checkout() if root is None else root
    path = None if root is None else root / card.reproduction
    return read(path) if path is not None and path.is_file() else None


def checkout() -> Path | None:
    """Return the root of the checkout that tokenry runs from, or None when it runs from an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "mkdocs.yml").is_file() else None


def text(value: object) -> str:
    """Return a JSON value as a reader wants it: four significant digits, yes and no, nothing in quotes."""
    match value:
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list():
            return ", ".join(map(text, value))
        case dict():
            return ", ".join(f"{key} {text(inner)}" for key, inner in value.items())
    return json.dumps(value)


def _records(value: object) -> list[dict[str, Any]] | None:
    if not (isinstance(value, dict) and value):
        return None
    if all(isinstance(record, dict) for record in value.values()):
        return [{"": name} | record for name, record in value.items()]
    if not all(isinstance(row, list) for row in value.values()):
        return None
    (corner, columns), *rows = value.items()
    named = all(isinstance(column, str) for column in columns)
    if not (named and rows and all(len(row) == len(columns) for _, row in rows)):
        return None
    return [{corner: name} | dict(zip(columns, row, strict=True)) for name, row in rows]


def _rows(label: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _rows(f"{label}, {key}", inner)
    else:
        yield label, text(value)
