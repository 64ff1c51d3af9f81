"""What a host asks of a method that takes no tokens away, but decides what attends to what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from tokenry.tokens.needs import Depth


@dataclass(frozen=True, eq=False)
class Columns:
    """Tokens of a batch of sequences as one side of a layer's attention: its queries, or its keys.

    Attributes:
        kind: what each of them is, as `ColumnKind`.
        place: its column in the full sequence, before anything left it; -1 = padding.
    """

    kind: Int[Tensor, "rows t"]
    place: Int[Tensor, "rows t"]


@runtime_checkable
class Restriction(Protocol):
    """A method that restricts attention in some decoder layers. It holds no state, and no token leaves because of it.

    The laws of `tests/laws/restrictions` hold for each: what it hides is as if it were not there, in prefill and in
    every decoding step, and nothing but attention changes.
    """

    @property
    def slug(self) -> str:
        """Its name, for messages."""

    def layers(self, depth: Depth) -> tuple[int, ...]:
        """Decoder layers that it restricts, ascending."""

    def visible(self, layer: int, queries: Columns, keys: Columns) -> Bool[Tensor, "rows q k"]:
        """Which keys each query may see, of those that it sees anyway (causality, padding and windows stay)."""
