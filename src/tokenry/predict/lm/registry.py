"""Decoders by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.predict.lm.proposer import NamedProposer

DECODERS: Final = Registry[type[NamedProposer]]("decoder", NamedProposer)
"""Every decoder, by name; other packages register theirs in the entry-point group "tokenry.decoders"."""
