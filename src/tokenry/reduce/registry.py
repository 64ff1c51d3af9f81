"""Finding a method by name: the catalogue's own, and those that installed packages register."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from tokenry.catalog import cards
from tokenry.reduce.base import CONFIG_VERSION, Reducer
from tokenry.tokens import InputError, TokenryError, UnknownNameError

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
    cls = _class_of(name)
    return cls.from_json(settings) if "version" in settings else _build(cls, settings)


def _class_of(name: str) -> type[Reducer]:
    paths = method_paths()
    if not isinstance(name, str):
        raise InputError(f"A method's name is text, such as 'divprune', got {name!r}.")
    if name not in paths:
        near = difflib.get_close_matches(name, paths, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(paths))}."
        raise UnknownNameError(f"There is no method {name!r}. {hint}")
    return _load(name, paths[name])


def read_methods(spec: str | Reducer | Iterable[str | Reducer], **settings: Any) -> tuple[Reducer, ...]:
    """One or several methods, given as names, JSON configurations (text) or `Reducer`s.

    ``"divprune+pyramiddrop"`` is a chain of two, and so is a JSON list of two configurations. Settings go to every
    member given by its bare name that has them, and to JSON configurations that do not say anything else; nothing
    replaces what a `Reducer` or a configuration says itself. So ``"divprune+pyramiddrop", budget=0.5`` leaves half,
    and of that half another half.

    Raises:
        UnknownNameError: no such method.
        TokenryError: a configuration that is no JSON object with a "method", nor a list of such, or a setting that no
            member takes.
    """
    members = _members(spec)
    taken = {name for member in members for name in _taken(member, settings)}
    if members and (unused := sorted(set(settings) - taken)):
        raise TokenryError(_no_use(members, unused))
    return _configured(members, settings)


def fill_in(spec: str | Reducer | Iterable[str | Reducer], **settings: Any) -> tuple[Reducer, ...]:
    """As `read_methods`, for settings that are only proposed: those that no member takes are let go.

    Raises:
        UnknownNameError, TokenryError: as `read_methods`.
    """
    return _configured(_members(spec), settings)


def is_json(spec: str) -> bool:
    """Whether a method, or a chain, is given as a JSON configuration and not by name."""
    return spec.lstrip().startswith(("{", "["))


@dataclass(frozen=True)
class _Json:
    """A configuration given as text: its method, and the settings that it says."""

    slug: str
    settings: dict[str, Any]


def _members(spec: str | Reducer | Iterable[str | Reducer]) -> list[str | Reducer | _Json]:
    """The members of a chain, in order: names, configured methods, configurations."""
    if isinstance(spec, Reducer):
        return [spec]
    if isinstance(spec, str):
        return _read_json(spec) if is_json(spec) else [n.strip() for n in spec.split("+")]
    if isinstance(spec, type) or not isinstance(spec, Iterable):
        hint = (
            f"{spec.__name__} is a class: make one, {spec.__name__}(...)"
            if isinstance(spec, type)
            else repr(spec)
        )
        raise InputError(
            f"A method is a name such as 'divprune', a configured Reducer, or a list of them; {hint}."
        )
    return [member for part in spec for member in _members(part)]


def _taken(member: str | Reducer | _Json, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that go to a member of a chain."""
    if isinstance(member, Reducer):
        return {}
    known = {f.name for f in fields(_class_of(_slug(member)))} | {"version"}
    return {name: value for name, value in settings.items() if name in known and name not in _own(member)}


def _configured(members: list[str | Reducer | _Json], settings: dict[str, Any]) -> tuple[Reducer, ...]:
    """The methods of a chain, each with those settings that go to it."""
    return tuple(
        member
        if isinstance(member, Reducer)
        else method(_slug(member), **(_own(member) | _taken(member, settings)))
        for member in members
    )


def _slug(member: str | Reducer | _Json) -> str:
    return member if isinstance(member, str) else member.slug


def _own(member: str | _Json) -> dict[str, Any]:
    """What a member of a chain says itself."""
    return {} if isinstance(member, str) else member.settings


def _no_use(members: list[str | Reducer | _Json], unused: list[str]) -> str:
    names = "+".join(map(_slug, members))
    plain = sorted({f.name for m in members if isinstance(m, str) for f in fields(_class_of(m))})
    if not plain:
        return f"{names} is already configured; {', '.join(unused)} would be ignored."
    return f"{names} takes no setting {', '.join(unused)}. Settings: {', '.join(plain)}."


def _read_json(text: str) -> list[str | Reducer | _Json]:
    """The members of a JSON text: a configuration, or a list of configurations and names."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise TokenryError(_no_configuration(text, str(error))) from None
    return [_read_member(part, text) for part in (found if isinstance(found, list) else [found])]


def _read_member(part: Any, text: str) -> str | _Json:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or "method" not in part:
        raise TokenryError(_no_configuration(text, f'{json.dumps(part)} is no object with a "method"'))
    return _Json(
        part["method"], {"version": CONFIG_VERSION} | {k: v for k, v in part.items() if k != "method"}
    )


def _no_configuration(text: str, why: str) -> str:
    return (
        'A configuration is JSON such as {"method": "divprune", "budget": 64}, or a list of such for a chain; got '
        f"{text!r} ({why})."
    )


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
