"""Transplanting methods by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Any, Final

from tokenry.catalog.registry import Registry
from tokenry.text.transplant.base import Transplant
from tokenry.tokens.errors import TokenryError

TRANSPLANTS: Final = Registry[type[Transplant]]("transplant", Transplant, "transplanting method")
"""Every method, by name; other packages register theirs in the entry-point group "tokenry.transplants"."""


def transplants() -> dict[str, type[Transplant]]:
    """All methods by name, imported."""
    return TRANSPLANTS.all()


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
    made: Transplant = TRANSPLANTS.make(name, **settings)
    return made
