"""Faces of rooms: what a package has to offer by name, loaded when it is asked for.

A package's `__init__.py` imports what it offers under `if TYPE_CHECKING:`, where type checkers, editors and readers
look, and ends with `__getattr__, __dir__, __all__ = face(__name__)`, which reads the same imports from its source: each
name is listed once.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import InspectLoader
from types import MappingProxyType
from typing import Any, NamedTuple


class _Home(NamedTuple):
    """Where a name comes from: a module, and what it is called there."""

    module: str
    name: str


def face(
    package: str, moved: Mapping[str, str] = MappingProxyType({})
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names are loaded on first use (PEP 562).

    Args:
        package: The package's `__name__`.
        moved: Names that have gone elsewhere, with the public name to use now ("predict.byte_model"), or with the
            module of a deprecated function that says so itself ("models.load:load_model"); for one release they are
            found here too, with a warning.
    """
    homes = _homes(package)

    def get(name: str) -> Any:
        if name in moved:
            return _moved(package, name, moved[name])
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = homes[name]
        if module == package:  # a room of it
            return import_module(f"{package}.{original}")
        value = vars(sys.modules[package])[name] = getattr(import_module(module), original)
        return value

    def names() -> list[str]:
        own = (name for name in vars(sys.modules[package]) if name.startswith("__"))
        return sorted({*own, *homes})

    return get, names, sorted(homes)


def _homes(package: str) -> dict[str, _Home]:
    """What a package imports for type checkers."""
    loader = getattr(sys.modules[package].__spec__, "loader", None)
    source = loader.get_source(package) if isinstance(loader, InspectLoader) else None
    if source is None:  # a package of compiled files only
        raise ImportError(
            f"{package} is to say what it offers, and has no source to say it in.", name=package
        )
    return {
        alias.asname or alias.name: _Home(str(statement.module), alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def _moved(package: str, name: str, now: str) -> Any:
    module, colon, function = now.partition(":")
    if colon:
        return getattr(import_module(f"tokenry.{module}"), function)
    module, _, new = f"tokenry.{now}".rpartition(".")
    warnings.warn(
        f"{package}.{name} is now tokenry.{now}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(module), new)
