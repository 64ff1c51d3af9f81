"""Objectives by name: tokenry's own, and those that installed packages register."""

from __future__ import annotations

from typing import Final

from tokenry.catalog.registry import Registry
from tokenry.train.loop import Objective

OBJECTIVES: Final = Registry[type[Objective]]("objective", Objective)
"""Every objective, by name; other packages register theirs in the entry-point group "tokenry.objectives"."""
