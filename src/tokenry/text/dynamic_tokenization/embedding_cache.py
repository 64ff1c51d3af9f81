"""Embedding rows that were computed before, in a tensor of fixed size; the longest unused make room for new ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.tokens.errors import InputError


class LRUEmbeddingCache:
    """Rows by their token's bytes, at most `capacity` of them.

    The rows of the call in hand are never evicted for one another: if a call needs more different rows than there are
    places, those that find none are computed and handed out, but not kept.

    Args:
        capacity: rows to keep; 0 keeps none.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise InputError(f"A cache's capacity must not be negative, got {capacity}")
        self.capacity = capacity
        self.hits = self.misses = 0
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # oldest first
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, key: bytes) -> bool:
        return key in self._slots

    def clear(self) -> None:
        """Forget all rows: what they were computed from has changed. Hits and misses are counted on."""
        self._slots.clear()
        self._rows = None

    def rows(
        self, keys: Sequence[bytes], compute: Callable[[list[bytes]], Float[Tensor, "new d"]]
    ) -> Float[Tensor, "keys d"]:
        """One row for every key, computing those that are not here.

        Args:
            keys: bytes of tokens; repeated keys are computed once.
            compute: gives the rows of keys, in their order; called at most once, not for an empty list.

        Raises:
            InputError: no keys at all.
        """
        if not keys:
            raise InputError("The cache was asked for the rows of no keys.")
        unique = list(dict.fromkeys(keys))
        missing = [key for key in unique if key not in self._slots]
        self.hits += len(unique) - len(missing)
        self.misses += len(missing)
        for key in unique:
            if key in self._slots:
                self._slots.move_to_end(key)  # in use: what is older goes first
        known = [key for key in unique if key in self._slots]
        fresh = compute(missing) if missing else None
        parts = [] if self._rows is None else [self._rows[[self._slots[key] for key in known]]]
        if fresh is not None:
            parts.append(fresh)
        at = {key: index for index, key in enumerate(known + missing)}
        out = torch.cat(parts)[[at[key] for key in keys]]
        if fresh is not None:
            self._keep(missing, fresh, spared=len(known))
        return out

    def _keep(self, keys: list[bytes], rows: Float[Tensor, "new d"], spared: int) -> None:
        """Store rows, evicting the oldest; the `spared` newest entries stay."""
        if self._rows is None:
            self._rows = rows.new_empty(self.capacity, rows.shape[1])
        keys = keys[: self.capacity - spared]
        slots = []
        for key in keys:
            if len(self._slots) < self.capacity:
                slot = len(self._slots)
            else:
                _, slot = self._slots.popitem(last=False)
            self._slots[key] = slot
            slots.append(slot)
        self._rows[slots] = rows[: len(keys)].detach().to(self._rows)
