"""Connectors by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.models.vlm.connector import Connector

CONNECTORS: Final = Registry[type[Connector]]("connector", Connector)
"""Every connector, by name; other packages register theirs in the entry-point group "tokenry.connectors"."""
