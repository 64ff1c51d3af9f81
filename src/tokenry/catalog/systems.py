"""One door to all systems: list them, read about one, get one. Imports no torch until a system is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tokenry.catalog.card import KINDS, Card
from tokenry.catalog.loader import card, cards
from tokenry.catalog.registry import entries
from tokenry.tokens.errors import InputError, TokenryError


def systems(
    *, room: str | None = None, kind: str | None = None, state: str | None = None
) -> tuple[Card, ...]:
    """The cards of all systems that match: ``tk.systems(kind="reducer", state="done")``.

    Args:
        room: Only this room ("reduce", "text", "models" ...).
        kind: Only this kind ("reducer", "codec", "transplant" ...).
        state: Only this state: "done", "partly" or "open".

    Returns:
        The matching cards in the catalogue's order; possibly none.

    Raises:
        UnknownNameError: A filter's value is none that a card can have; the message names those.
    """
    return cards(room=room, kind=kind, state=state)


def info(slug: str) -> Card:
    """The card of a system: ``tk.info("fastervlm").summary``.

    Raises:
        UnknownNameError: The catalogue has no such system; the message names those that sound alike.
    """
    return card(slug)


def get(slug: str) -> Any:
    """What a user of a system calls, imported: ``tk.get("fastervlm")(budget=64)``.

    Returns:
        The class or function that the card names as its entry point; for a variant of a system, or what another package
        registers, the member of that name.

    Raises:
        UnknownNameError: There is none of that name; the message names systems that sound alike.
        InputError: The system is in the catalogue because it is planned, and has no code yet; or the name is no text.
        TokenryError: What another package registers cannot be imported.
    """
    if not isinstance(slug, str):
        raise InputError(f"Give the system by name, such as 'fastervlm', not as {slug!r}.")
    path = _registered(slug)
    if path is not None:
        return _imported(path)
    found = card(slug)
    if found.entry_point is None:
        raise InputError(
            f"{found.name} ({slug}) is {found.state}: the catalogue describes it, and there is no code to get yet. "
            'tk.systems(state="done") lists what can be used.'
        )
    return _imported(found.entry_point)


def _registered(name: str) -> str | None:
    """Where a variant, or a member that another package brings, is."""
    if name in {each.slug for each in cards()}:
        return None
    return next((found[name].path for kind in KINDS if name in (found := entries(kind))), None)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TokenryError(
            f"{path} cannot be imported: {error}. Repair or uninstall that package."
        ) from error
