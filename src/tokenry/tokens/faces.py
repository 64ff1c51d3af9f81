"""Faces of rooms: what a package has to offer by name, loaded when it is asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any


def lazy(
    package: str,
    homes: Mapping[str, str],
    rooms: Sequence[str] = (),
    moved: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names are loaded on first use (PEP 562).

    Args:
        package: The package's `__name__`.
        homes: The module that each name comes from, by its path below tokenry.
        rooms: Packages within the package that are names of it themselves.
        moved: Names that have gone elsewhere, with the public name to use now ("predict.byte_model"); for one release
            they are found here too, with a warning.
    """

    def get(name: str) -> Any:
        if name in rooms:
            return import_module(f"{package}.{name}")
        if name in moved:
            return _moved(package, name, moved[name])
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = vars(sys.modules[package])[name] = getattr(import_module(f"tokenry.{homes[name]}"), name)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *rooms})

    return get, names


def _moved(package: str, name: str, now: str) -> Any:
    module, _, new = f"tokenry.{now}".rpartition(".")
    warnings.warn(
        f"{package}.{name} is now tokenry.{now}; the old name goes with the next release.",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(import_module(module), new)
