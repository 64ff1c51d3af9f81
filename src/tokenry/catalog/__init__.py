"""One card per system, and what is generated from the cards: tables, docs pages, the CLI's listing.

Cards are data (`cards/SLUG.toml`); reading them imports neither torch nor any method.
"""

from tokenry.catalog.card import ROOMS, STAGES, STATES, Card
from tokenry.catalog.loader import card, cards, load_cards

__all__ = ["ROOMS", "STAGES", "STATES", "Card", "card", "cards", "load_cards"]
