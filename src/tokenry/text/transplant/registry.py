"""Finding a transplanting method by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

import difflib
from dataclasses import fields
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final

from tokenry.text.transplant.base import Transplant
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError

ENTRY_POINTS: Final = "tokenry.transplants"
"""Entry-point group in which other packages register methods: ``my-method = "my_package:MyTransplant"``."""

_HERE = "tokenry.text.transplant"
_OURS: Final = MappingProxyType(
    {
        "first-last": f"{_HERE}.simple:FirstLast",
        "focus": f"{_HERE}.focus:Focus",
        "normal": f"{_HERE}.simple:NormalRows",
        "omp": f"{_HERE}.omp:OMP",
        "random": f"{_HERE}.simple:RandomRows",
        "retok": f"{_HERE}.simple:ReTok",
        "tokenadapt": f"{_HERE}.tokenadapt:TokenAdapt",
        "transtokenizer": f"{_HERE}.transtokenizer:TransTokenizer",
        "wechsel": f"{_HERE}.wechsel:Wechsel",
        "zett": "tokenry.text.zett.transfer:Zett",
        "zero": f"{_HERE}.simple:ZeroRows",
    }
)
"""Most of them are baselines of one catalogued system, so they are listed here rather than found by their cards."""


def transplant_paths() -> dict[str, str]:
    """Every known method's name and where its class is ("package.module:Class").

    Raises:
        TokenryError: two packages register the same name.
    """
    found = dict(_OURS)
    for entry in entry_points(group=ENTRY_POINTS):
        path = f"{entry.module}:{entry.attr}"
        if found.setdefault(entry.name, path) != path:
            raise TokenryError(
                f"{path} is registered as {entry.name!r} in {ENTRY_POINTS}, a name that is already taken by "
                f"{found[entry.name]}. Uninstall one of the packages, or rename its method."
            )
    return dict(sorted(found.items()))


def transplants() -> dict[str, type[Transplant]]:
    """All methods by name, imported."""
    return {name: _load(name, path) for name, path in transplant_paths().items()}


def transplant_method(name: str | Transplant, **settings: Any) -> Transplant:
    """A method by name, with settings: ``transplant_method("tokenadapt", top_k=5)``; a method is returned as it is.

    Raises:
        UnknownNameError: no such method; the message suggests the nearest name.
        TokenryError: a setting that the method does not have, or settings for a method that is already configured.
    """
    if isinstance(name, Transplant):
        if settings:
            raise TokenryError(f"{name!r} is already configured; {', '.join(settings)} would be ignored.")
        return name
    name = "retok" if name == "mean" else name  # what everybody else calls it
    paths = transplant_paths()
    if not isinstance(name, str):
        raise InputError(
            f"A transplanting method is a name ({', '.join(paths)}) or a configured one, got {name!r}."
        )
    if name not in paths:
        near = difflib.get_close_matches(name, paths, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(paths)}."
        raise UnknownNameError(f"There is no transplanting method {name!r}. {hint}")
    cls = _load(name, paths[name])
    known = {field.name: field.type for field in fields(cls) if field.init}
    if unknown := sorted(settings.keys() - known):
        raise TokenryError(
            f"{name} has no setting {', '.join(unknown)}; its settings: {', '.join(known) or 'none'}."
        )
    try:
        return cls(**settings)
    except TypeError as error:  # a text where a number belongs, mostly
        given = ", ".join(f"{key}={value!r} (takes {known[key]})" for key, value in settings.items())
        raise TokenryError(f"{name} cannot be set up with {given}: {error}.") from None


@cache
def _load(name: str, path: str) -> type[Transplant]:
    module, _, attribute = path.partition(":")
    try:
        cls = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise TokenryError(
            f"The method {name!r} cannot be imported from {path}: {error}. Repair or uninstall that package."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Transplant) and getattr(cls, "slug", None) == name):
        raise TokenryError(
            f"{path} is registered as {name!r}, but is not a Transplant whose slug is {name!r}."
        )
    return cls
