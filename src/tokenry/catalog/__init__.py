"""One card per system, the registries made of them, and what is generated from them: tables, pages, listings.

Cards are data (`cards/SLUG.toml`); reading them imports neither torch nor any method. Registries find what there is of
a kind by name, from the cards and from other packages.
"""

from tokenry.catalog.card import KINDS, ROOMS, STAGES, STATES, Card, Variant
from tokenry.catalog.loader import card, cards, load_cards
from tokenry.catalog.registry import Entry, Registry
from tokenry.catalog.systems import get, info, systems

__all__ = [
    "KINDS",
    "ROOMS",
    "STAGES",
    "STATES",
    "Card",
    "Entry",
    "Registry",
    "Variant",
    "card",
    "cards",
    "get",
    "info",
    "load_cards",
    "systems",
]
