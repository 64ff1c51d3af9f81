"""Finding a method by name: the catalogue's own, and those that installed packages register."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from tokenry.catalog import cards
from tokenry.reduce.base import Reducer
from tokenry.tokens import TokenryError, UnknownNameError

ENTRY_POINTS = "tokenry.reducers"
"""Entry-point group in which other packages register methods: ``my-method = "my_package:MyMethod"``."""


def method_paths() -> dict[str, str]:
    """Every known method's slug and where its class is ("package.module:Class")."""
    ours = {c.slug: c.entry_point for c in cards() if c.room == "reduce" and c.entry_point is not None}
    theirs: dict[str, str] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        path = f"{entry.module}:{entry.attr}"
        if entry.name in ours or theirs.get(entry.name, path) != path:
            raise TokenryError(
                f"{path} is registered as {entry.name!r} in {ENTRY_POINTS}, a name that is already taken by "
                f"{(ours | theirs)[entry.name]}. Uninstall one of the packages, or rename its method."
            )
        theirs[entry.name] = path
    return ours | theirs


def methods() -> dict[str, type[Reducer]]:
    """All methods by slug, imported."""
    return {slug: _load(slug, path) for slug, path in sorted(method_paths().items())}


def method(name: str, **settings: Any) -> Reducer:
    """A method by name, with settings: ``method("divprune", budget=64)``.

    Raises:
        UnknownNameError: no such method; the message suggests the nearest name.
        TokenryError: a setting that the method does not have.
    """
    paths = method_paths()
    if name not in paths:
        near = difflib.get_close_matches(name, paths, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(paths))}."
        raise UnknownNameError(f"There is no method {name!r}. {hint}")
    cls = _load(name, paths[name])
    return cls.from_json(settings) if "version" in settings else _build(cls, settings)


def read_methods(spec: str | Reducer | Iterable[str | Reducer], **settings: Any) -> tuple[Reducer, ...]:
    """One or several methods, given as names, JSON configurations (text) or `Reducer`s; settings go to the names.

    ``"divprune+pyramiddrop"`` is a chain of two.

    Raises:
        UnknownNameError: no such method.
        TokenryError: a configuration that is no JSON object with a "method", or settings that would be ignored.
    """
    if isinstance(spec, Reducer):
        if settings:
            raise TokenryError(f"{spec!r} is already configured; {', '.join(settings)} would be ignored.")
        return (spec,)
    if isinstance(spec, str):
        if spec.lstrip().startswith("{"):
            return (_read_json(spec, settings),)
        return tuple(method(name.strip(), **settings) for name in spec.split("+"))
    return tuple(
        m for part in spec for m in read_methods(part, **({} if isinstance(part, Reducer) else settings))
    )


def _read_json(text: str, settings: dict[str, Any]) -> Reducer:
    try:
        config = json.loads(text)
        slug = config.pop("method")
    except (json.JSONDecodeError, KeyError) as error:
        raise TokenryError(
            f'A configuration is JSON such as {{"method": "divprune", "budget": 64}}; got {text!r} ({error!r}).'
        ) from None
    return method(slug, **(config | settings))


def _load(slug: str, path: str) -> type[Reducer]:
    module, _, name = path.partition(":")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TokenryError(
            f"The method {slug!r} cannot be imported from {path}: {error}. Repair or uninstall that package."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Reducer) and getattr(cls, "slug", None) == slug):
        raise TokenryError(f"{path} is registered as {slug!r}, but is not a Reducer whose slug is {slug!r}.")
    return cls


def _build(cls: type[Reducer], settings: dict[str, Any]) -> Reducer:
    try:
        return cls(**settings)
    except TypeError as error:
        raise TokenryError(
            f"{cls.slug}: {error}. Its settings: {', '.join(f.name for f in fields(cls))}."
        ) from None
