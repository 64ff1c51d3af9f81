"""Keywords under their names of the last release, for one more: functions take them, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tokenry.tokens.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**old: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that still takes keywords which are called otherwise now: ``@renamed(how="method")``.

    Args:
        **old: what each was called, and what it is called now.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **_of_today(function.__name__, old, kwargs))

        return called

    return decorate


def _of_today(function: str, old: dict[str, str], given: dict[str, Any]) -> dict[str, Any]:
    found = dict(given)
    for name in old.keys() & given.keys():
        now = old[name]
        if now in given:
            raise InputError(
                f"{function}(...) got both {now} and {name}, its name of the last release: give {now}."
            )
        warnings.warn(
            f"{function}({name}=...) is now {function}({now}=...); the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=3,
        )
        found[now] = found.pop(name)
    return found
