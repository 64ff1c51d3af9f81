"""Methods by name, in chains and in JSON: what is written where a method is asked for, and the `Reducer` it means."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from tokenry.catalog.registry import Registry
from tokenry.reduce.base import CONFIG_VERSION, Reducer
from tokenry.tokens import InputError, TokenryError
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)

REDUCERS: Final = Registry[type[Reducer]]("reducer", Reducer, "method")
"""Every method, by name; other packages register theirs in the entry-point group "tokenry.reducers"."""


def reducers() -> dict[str, type[Reducer]]:
    """All methods by slug, imported."""
    return REDUCERS.all()


def reducer(name: str, **settings: Any) -> Reducer:
    """A method by name, with settings: ``reducer("divprune", budget=64)``.

    Raises:
        UnknownNameError: no such method; the message suggests the nearest name.
        TokenryError: a setting that the method does not have.
    """
    if "version" in settings:
        return REDUCERS.get(name).from_json(settings)
    made: Reducer = REDUCERS.make(name, **settings)
    return made


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
    known = {f.name for f in fields(REDUCERS.get(_slug(member)))} | {"version"}
    return {name: value for name, value in settings.items() if name in known and name not in _own(member)}


def _configured(members: list[str | Reducer | _Json], settings: dict[str, Any]) -> tuple[Reducer, ...]:
    """The methods of a chain, each with those settings that go to it."""
    return tuple(
        member
        if isinstance(member, Reducer)
        else reducer(_slug(member), **(_own(member) | _taken(member, settings)))
        for member in members
    )


def _slug(member: str | Reducer | _Json) -> str:
    return member if isinstance(member, str) else member.slug


def _own(member: str | _Json) -> dict[str, Any]:
    """What a member of a chain says itself."""
    return {} if isinstance(member, str) else member.settings


def _no_use(members: list[str | Reducer | _Json], unused: list[str]) -> str:
    names = "+".join(map(_slug, members))
    plain = sorted({f.name for m in members if isinstance(m, str) for f in fields(REDUCERS.get(m))})
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
