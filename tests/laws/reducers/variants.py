"""Settings of every method, read off its fields: a method that is added is tested without editing a test."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tests.laws.reducers.views import DEPTH
from tokenry.reduce import Reducer
from tokenry.tokens import Positions, TokenryError

NONSENSE = "no such choice"


def choices(cls: type[Reducer], name: str) -> list[str]:
    """The values that a text setting takes: its error message has to name them."""
    try:
        cls(**{name: NONSENSE})
    except TokenryError as error:
        words = re.findall(r"[\w-]+", str(error))
        return sorted({word for word in words if _builds(cls, {name: word})})
    raise AssertionError(f"{cls.slug} accepts {name}={NONSENSE!r}.")


def settings_of(cls: type[Reducer]) -> Iterator[dict[str, Any]]:
    """One changed setting at a time: other choices, no value where None is allowed, other numbers.

    Only what builds and fits a model of `DEPTH`; the budget has tests of its own.
    """
    for field in dataclasses.fields(cls):
        if field.name == "budget":
            continue
        default = getattr(cls(), field.name)
        for value in _others(cls, field.name, default, str(field.type)):
            if value != default and _builds(cls, {field.name: value}):
                yield {field.name: value}


def choices_of(cls: type[Reducer]) -> Iterator[dict[str, Any]]:
    """The changed settings that make a method something else: choices and None."""
    for settings in settings_of(cls):
        (value,) = settings.values()
        if value is None or (isinstance(value, (str, bool)) and not isinstance(value, Positions)):
            yield settings


def _others(cls: type[Reducer], name: str, default: Any, kind: str) -> list[Any]:
    match default:
        case Positions():
            values: list[Any] = list(Positions)
        case bool():
            values = [not default]
        case str():
            values = list(choices(cls, name))
        case int():
            values = [default + 1, default - 1]
        case float():
            values = [default / 2, default * 0.9, 0.75]
        case tuple():
            values = [default[:-1], default[1:]]
        case _:
            values = []
    return values + ([None] if "None" in kind else [])


def _builds(cls: type[Reducer], settings: dict[str, Any]) -> bool:
    try:
        method = cls(**settings)
        for layer in method.cuts(DEPTH):
            method.needs(layer, DEPTH)
    except TokenryError:
        return False
    return True
