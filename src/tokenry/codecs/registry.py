"""Codecs by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.codecs.base import Codec

CODECS: Final = Registry[type[Codec]]("codec", Codec)
"""Every codec, by name; other packages register theirs in the entry-point group "tokenry.codecs"."""
