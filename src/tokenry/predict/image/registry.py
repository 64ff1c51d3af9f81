"""Generators of the tokens of pictures by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.predict.image.base import TokenGenerator

GENERATORS: Final = Registry[type[TokenGenerator]]("generator", TokenGenerator)
"""Every generator, by name; other packages register theirs in the entry-point group "tokenry.generators"."""
