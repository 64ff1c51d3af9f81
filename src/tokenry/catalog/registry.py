"""Registries: what there is of a kind, by name, from the cards and from the entry points of installed packages.

A registry stands below the rooms and imports nothing of them: the room that owns a kind opens its registry with the
base class (or protocol) that members have to meet.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, get_annotations, signature
from typing import Any, Generic, TypeVar, cast

from tokenry.catalog.card import KINDS, Card
from tokenry.catalog.loader import cards
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError

M = TypeVar("M")
"""What a registry holds: classes below one, or functions of one kind."""


@dataclass(frozen=True)
class Entry:
    """One member of a registry, before it is imported.

    Attributes:
        name: Name by which it is called.
        path: Where it is, as "package.module:Name".
        summary: One line; empty for a member that another package brings.
        aliases: Further names.
        default: Whether it is taken where none is named.
        card: The card that answers for it; None for a member that another package brings.
    """

    name: str
    path: str
    summary: str = ""
    aliases: tuple[str, ...] = ()
    default: bool = False
    card: Card | None = None


def group(kind: str) -> str:
    """The entry-point group in which other packages register members of a kind: "tokenry.reducers"."""
    return f"tokenry.{kind}s"


def catalogued(kind: str) -> dict[str, Entry]:
    """Tokenry's own members of a kind by name, sorted: cards of that kind that can be used, and variants of cards.

    Raises:
        TokenryError: Two of them have the same name or alias.
    """
    found = [
        Entry(c.slug, c.entry_point, c.summary, c.aliases, c.default, c)
        for c in cards()
        if c.kind == kind and c.entry_point is not None
    ]
    found += [
        Entry(v.name, v.entry_point, v.summary, v.aliases, v.default, c)
        for c in cards()
        for v in c.variants
        if v.kind == kind
    ]
    taken: dict[str, Entry] = {}
    for entry in found:
        for name in (entry.name, *entry.aliases):
            if taken.setdefault(name, entry) is not entry:
                raise TokenryError(
                    f"The cards have two members of kind {kind!r} called {name!r}: {taken[name].path} and {entry.path}."
                )
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def entries(kind: str) -> dict[str, Entry]:
    """Every known member of a kind by name, sorted: tokenry's own, and those that installed packages register.

    Raises:
        TokenryError: A package registers a name that is taken.
    """
    found = catalogued(kind)
    taken = {name: entry.path for entry in found.values() for name in (entry.name, *entry.aliases)}
    for point in entry_points(group=group(kind)):
        path = "".join(point.value.partition("[")[0].split())  # extras are no part of where it is
        # The same distribution may be found twice on the path.
        if taken.setdefault(point.name, path) != path or point.name in catalogued(kind):
            raise TokenryError(
                f"{path} is registered as {point.name!r} in {group(kind)}, a name that is already taken by "
                f"{taken[point.name]}. Uninstall one of the packages, or rename what it registers."
            )
        found[point.name] = Entry(point.name, path)
    return dict(sorted(found.items()))


def default(kind: str) -> str:
    """The member of a kind that is taken where none is named: the one whose card says so.

    Raises:
        TokenryError: None says so, or several do.
    """
    found = [entry.name for entry in catalogued(kind).values() if entry.default]
    if len(found) != 1:
        raise TokenryError(
            f"One member of kind {kind!r} has to be its default; the cards name {', '.join(found) or 'none'}."
        )
    return found[0]


def controls(kind: str) -> tuple[str, ...]:
    """The baselines that stand in every comparison of a kind, in their order."""
    found = [
        (c.control, c.slug) for c in cards(kind=kind) if c.control is not None and c.entry_point is not None
    ]
    return tuple(slug for _, slug in sorted(found))


class Registry(Generic[M]):
    """What there is of one kind by name; members are imported when they are asked for.

    Args:
        kind: One of `KINDS`; other packages register members in the entry-point group "tokenry.KINDs".
        base: Class or protocol that members meet: a class below it, or a function that can be called like it. Where it
            has a `slug`, a member's slug is its name.
        what: What messages call a member.
    """

    def __init__(self, kind: str, base: type, what: str | None = None) -> None:
        if kind not in KINDS:
            raise InputError(
                f"There is no kind {kind!r} to open a registry of; there are {', '.join(KINDS)}."
            )
        self.kind, self.base, self.what = kind, base, what or kind

    def names(self) -> tuple[str, ...]:
        """Names of all members, sorted; none is imported for it."""
        return tuple(self.entries())

    def entries(self) -> Mapping[str, Entry]:
        """All members by name, as cards and packages list them; none is imported for it."""
        return entries(self.kind)

    @property
    def default(self) -> str:
        """The member that is taken where none is named."""
        return default(self.kind)

    def get(self, name: str) -> M:
        """A member: the class, or the function.

        Raises:
            UnknownNameError: There is none of that name; the message suggests the nearest.
            TokenryError: It cannot be imported, or is not what it is registered as.
        """
        return self._load(self.entry(name))

    def all(self) -> dict[str, M]:
        """All members by name, imported."""
        return {name: self._load(entry) for name, entry in self.entries().items()}

    def make(self, name: str, *given: Any, **settings: Any) -> Any:
        """What a member makes of its settings: ``make("divprune", budget=64)``.

        Args:
            name: The member's name.
            given: What it is called with beside its settings.
            settings: By the names that the member has for them.

        Raises:
            UnknownNameError: There is none of that name; the message suggests the nearest.
            InputError: A setting that it does not have, or of a type that it cannot use.
            TokenryError: It cannot be imported, or is not what it is registered as.
        """
        entry = self.entry(name)
        found = self._load(entry)
        known = _settings(found, len(given))
        if not _judges(found) and (unknown := sorted(settings.keys() - known)):
            raise InputError(
                f"{entry.name} has no setting {', '.join(unknown)}; its settings: {', '.join(known) or 'none'}."
            )
        if not isinstance(found, type):
            return cast(Any, found)(*given, **settings)
        try:
            return found(*given, **settings)
        except TypeError as error:  # a text where a number belongs, mostly
            takes = ", ".join(f"{k}={v!r} (takes {known.get(k, 'anything')})" for k, v in settings.items())
            raise InputError(f"{entry.name} cannot be set up with {takes or 'nothing'}: {error}.") from None

    def settings(self, name: str, given: int = 0) -> dict[str, str]:
        """The settings that a member has, with their types as they are written.

        Args:
            name: The member's name.
            given: How many arguments it is called with beside its settings.

        Raises:
            UnknownNameError, TokenryError: As `get`.
        """
        return _settings(self.get(name), given)

    def entry(self, name: str) -> Entry:
        """A member as it is listed, by its name or an alias.

        Raises:
            InputError: The name is no text.
            UnknownNameError: There is none of that name; the message suggests the nearest.
        """
        found = self.entries()
        named = {alias: entry for entry in found.values() for alias in (entry.name, *entry.aliases)}
        if not isinstance(name, str):
            raise InputError(f"Give the {self.what} by name ({', '.join(found)}), not as {name!r}.")
        if name not in named:
            planned = [c for c in cards(kind=self.kind) if c.slug == name]
            if planned:  # in the catalogue, and not in the registry: no code yet
                raise UnknownNameError(
                    f"The {self.what} {name!r} is {planned[0].state}: the catalogue describes it, and there is no "
                    f"code yet. There are {', '.join(found)}."
                )
            near = difflib.get_close_matches(name, named, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(found)}."
            raise UnknownNameError(f"There is no {self.what} {name!r}. {hint}")
        return named[name]

    def _load(self, entry: Entry) -> M:
        module, _, attributes = entry.path.partition(":")
        try:
            found: Any = import_module(module)
            for attribute in attributes.split("."):
                found = getattr(found, attribute)
        except (ImportError, AttributeError) as error:
            raise TokenryError(
                f"The {self.what} {entry.name!r} cannot be imported from {entry.path}: {error}. Repair or uninstall "
                "that package."
            ) from error
        named = not _declares(self.base, "slug") or getattr(found, "slug", None) == entry.name
        if not (named and _meets(found, self.base)):
            whose = f" whose slug is {entry.name!r}" if _declares(self.base, "slug") else ""
            raise TokenryError(
                f"{entry.path} is registered as {entry.name!r}, but is not a {self.base.__name__}{whose}."
            )
        return cast(M, found)


def _settings(found: Any, given: int) -> dict[str, str]:
    """Names and types of what can be set by name, behind what is given by position."""
    parameters = list(signature(found).parameters.values())[given:]
    return {
        p.name: p.annotation
        if isinstance(p.annotation, str)
        else getattr(p.annotation, "__name__", "anything")
        for p in parameters
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }


def _judges(found: Any) -> bool:
    """Whether it takes settings of any name, and says itself which there are."""
    return any(p.kind is Parameter.VAR_KEYWORD for p in signature(found).parameters.values())


def _declares(base: type, name: str) -> bool:
    return any(name in vars(cls) or name in get_annotations(cls) for cls in base.__mro__)


def _meets(found: Any, base: type) -> bool:
    """Whether a class is below another, has what a protocol asks for, or a function can be called like it."""
    if not isinstance(found, type):
        return isinstance(found, base)
    if not getattr(base, "_is_protocol", False):
        return issubclass(found, base)
    asked = {
        name
        for cls in base.__mro__
        if getattr(cls, "_is_protocol", False)
        for name in (*vars(cls), *get_annotations(cls))
        if not name.startswith("_")
    }
    return all(_declares(found, name) for name in asked)
