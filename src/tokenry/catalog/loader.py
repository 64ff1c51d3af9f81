"""Reading the cards."""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from tokenry.catalog.card import KINDS, ROOMS, STAGES, STATES, Card
from tokenry.tokens.errors import TokenryError, UnknownNameError


def load_cards(folder: Traversable) -> tuple[Card, ...]:
    """Read every card of a folder.

    Args:
        folder: A folder of `SLUG.toml` files; anything else in it is refused, so that no card is overlooked.

    Returns:
        The cards, sorted by room in the house's order, baselines first, then by slug.

    Raises:
        TokenryError: If a file is not a valid card, or if there is no card at all.
    """
    found = []
    for file in folder.iterdir():
        slug, _, suffix = file.name.rpartition(".")
        if suffix != "toml":
            raise TokenryError(f"{file.name!r} among the cards is no .toml file; remove it.")
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TokenryError(f"Card {slug!r} cannot be read: {error}") from error
        found.append(Card.from_mapping(slug, values))
    if not found:
        raise TokenryError(f"No cards in {folder}; is tokenry installed completely?")
    return tuple(sorted(found, key=lambda c: (ROOMS.index(c.room), not c.baseline, c.slug)))


@cache
def _all_cards() -> tuple[Card, ...]:
    return load_cards(resources.files("tokenry.catalog") / "cards")


def cards(
    *,
    room: str | None = None,
    kind: str | None = None,
    stage: str | None = None,
    state: str | None = None,
    trained: bool | None = None,
    baseline: bool | None = None,
) -> tuple[Card, ...]:
    """Return the cards that match every given filter.

    Args:
        room: Only this room, one of `ROOMS`.
        kind: Only this kind, one of `KINDS`.
        stage: Only this stage, one of `STAGES`.
        state: Only this state, one of `STATES`.
        trained: Only methods that need training (True) or only those that do not (False).
        baseline: Only baselines (True) or only catalogued systems (False).

    Returns:
        The matching cards in the catalogue's order; possibly none.

    Raises:
        UnknownNameError: If a filter's value is none that a card can have.
    """
    choices_of = (
        ("room", room, ROOMS),
        ("kind", kind, KINDS),
        ("stage", stage, STAGES),
        ("state", state, STATES),
    )
    for name, value, choices in choices_of:
        if value is not None and value not in choices:
            raise UnknownNameError(f"There is no {name} {value!r}; choose one of {', '.join(choices)}.")
    wanted = {
        "room": room,
        "kind": kind,
        "stage": stage,
        "state": state,
        "trained": trained,
        "baseline": baseline,
    }
    chosen = {name: value for name, value in wanted.items() if value is not None}
    return tuple(c for c in _all_cards() if all(getattr(c, name) == value for name, value in chosen.items()))


def card(slug: str) -> Card:
    """Return one system's card.

    Args:
        slug: Its name in the catalogue, such as "fastervlm".

    Raises:
        UnknownNameError: If the catalogue has no such system; the message names those that sound alike.
    """
    by_slug = {c.slug: c for c in _all_cards()}
    if slug in by_slug:
        return by_slug[slug]
    similar = difflib.get_close_matches(slug.lower(), by_slug, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(similar)}?" if similar else "`tokenry list` shows all of them."
    raise UnknownNameError(f"The catalogue has no system {slug!r}; {hint}")
