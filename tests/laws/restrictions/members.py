"""Restrictions for the laws: there is no published one yet, so two plain ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.tokens import ColumnKind, Columns, Depth


@dataclass(frozen=True)
class TextOnly:
    """From a layer on, text sees text only: what pictures had to say, they have said."""

    first: int
    slug: str = "text-only"

    def layers(self, depth: Depth) -> tuple[int, ...]:
        """From `first` to the end."""
        return tuple(range(self.first, depth.decoder))

    def visible(self, layer: int, queries: Columns, keys: Columns) -> Tensor:
        """Visual keys are for visual queries."""
        return (queries.kind == ColumnKind.VISUAL)[:, :, None] | (keys.kind != ColumnKind.VISUAL)[:, None]


@dataclass(frozen=True)
class Everything:
    """Hides nothing, in every layer."""

    slug: str = "everything"

    def layers(self, depth: Depth) -> tuple[int, ...]:
        """All."""
        return tuple(range(depth.decoder))

    def visible(self, layer: int, queries: Columns, keys: Columns) -> Tensor:
        """All keys, padding too: the host's own masks stay."""
        return torch.ones(*queries.kind.shape, keys.kind.shape[1], dtype=torch.bool)


MEMBERS = (TextOnly(1), TextOnly(2), Everything())
