"""The checker that the import hook of `conftest.py` puts around tokenry's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, get_args

from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)
"""An int is a float, as it is to every other type checker (PEP 484)."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype without the hints that say `Self`, which it knows only in classes that it decorates as a whole."""
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if not _mentions_self(hint)
    }
    return beartype(conf=_CONF)(function)


def _mentions_self(hint: object) -> bool:
    return hint is Self or any(_mentions_self(part) for part in get_args(hint))
