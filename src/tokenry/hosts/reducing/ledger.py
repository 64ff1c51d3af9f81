"""What a key-value cache holds of the sequence it stands for; and the watch over a cache that holds less than all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from jaxtyping import Int, Real
from torch import Tensor

from tokenry.hosts.upstream import Cache, cache_watcher, keeps_keys, keys_by_layer, keys_seen, watch_cache
from tokenry.tokens import InputError


@dataclass
class CacheLedger:
    """What a key-value cache holds, segment by segment. A segment is named by the decoder layer it begins with.

    It belongs to the cache: both are copied together, and rows that are repeated, chosen or reordered are so in both.
    Calls of a session find it there. To everything else the cache refuses to grow if it was shortened, since a model
    that knows of no session would count positions and masks by what is left.

    Attributes:
        seen: columns of the full sequence so far.
        columns: column of every cached token; -1 = padding.
        shift: what a new token's own position id is lowered by.
        next: the position id of the next token of every sequence, as the model would count without any dropping.
        in_call: whether a call of a session is at work on the cache.
        undo: what held before the call that is writing to the cache; it stays where that call was interrupted.
        whole: whether the cache gives its length as that of the full sequence, as `generate` needs it between calls.
    """

    seen: int = 0
    next: Real[Tensor, " b"] | None = None
    columns: dict[int, Int[Tensor, "b c"]] = field(default_factory=dict)
    shift: dict[int, Real[Tensor, " b"]] = field(default_factory=dict)
    in_call: bool = False
    undo: dict[str, Any] | None = None
    whole: bool = False

    @classmethod
    def of(cls, cache: Cache | None, batch: int, *, prefix: torch.device | None = None) -> CacheLedger:
        """The ledger of a cache, cut to what the cache still holds; a new one if the cache is empty.

        Args:
            cache: the cache of a call.
            batch: the call's sequences.
            prefix: whether a cache that was filled outside a session may stand before the call, as one of a system
                prompt does that many requests share; if so, the device for what is noted about it.

        Raises:
            InputError: the cache was filled without this session, or for another batch.
        """
        if cache is None or keys_seen(cache, 0) == 0:
            return cls()
        ledger = ledger_of(cache)
        if ledger is None:
            if prefix is None:
                raise InputError(
                    "This cache was filled outside the session, so what it holds of the picture is unknown. Run the "
                    "prompt inside the `with` block too. (Text that comes before the picture may be in a cache of "
                    "your own; the picture has to be in this call.)"
                )
            held = keys_seen(cache, 0)
            return cls(seen=held, columns={0: torch.arange(held, device=prefix).expand(batch, -1)})
        ledger._cut_to(cache, batch)
        return ledger

    def _cut_to(self, cache: Cache, batch: int) -> None:
        """Assisted decoding takes rejected tokens back, the same number everywhere."""
        self._mend(cache)
        gone: set[int] = set()
        for segment, columns in self.columns.items():
            if len(columns) != batch:
                raise InputError(
                    f"The cache holds {len(columns)} sequence(s), this call has {batch}. Run the prompt for as many "
                    "rows as are to be continued, or repeat the cache's rows (cache.batch_repeat_interleave)."
                )
            # Layers that reuse an earlier one's keys have none in the cache: what left it left everywhere.
            held = keys_seen(cache, segment) if keeps_keys(cache, segment) else columns.shape[1] - sum(gone)
            gone.add(columns.shape[1] - held)
            if held > columns.shape[1] or len(gone) > 1:
                raise InputError(
                    f"The cache holds {held} tokens at layer {segment}, the session put {columns.shape[1]} there: it "
                    "was also used outside the session. Run the prompt again, inside one."
                )
            self.columns[segment] = columns[:, :held]
        self.seen -= sum(gone)
        self.next = None if self.next is None else self.next - sum(gone)

    def _mend(self, cache: Cache) -> None:
        """After an interruption: make sure that tokens of the broken call have been taken out again everywhere."""
        if self.undo is None:
            return
        for name, value in self.undo.items():
            setattr(self, name, value)
        held = keys_by_layer(cache)
        if (
            not self.columns
            or held is None
            or len({self._segment(i).shape[1] - n for i, n in held.items()}) > 1
        ):
            raise InputError(_TORN)
        self.undo = None

    def begin(self) -> None:
        """A call begins to write to the cache."""
        self.undo = {
            "seen": self.seen,
            "next": self.next,
            "columns": dict(self.columns),
            "shift": dict(self.shift),
        }

    def finish(self) -> None:
        """The call has come to its end, and the cache is nobody's until the next."""
        self.undo, self.in_call = None, False

    def _segment(self, layer: int) -> Int[Tensor, "b c"]:
        """The columns that a layer's cache was given."""
        return self.columns[max(segment for segment in self.columns if segment <= layer)]

    def split(self, layer: int) -> None:
        """Let a segment begin at `layer`, which until now ran in the segment before it."""
        if self.columns and layer not in self.columns:
            before = max(segment for segment in self.columns if segment < layer)
            self.columns[layer] = self.columns[before]
            if before in self.shift:
                self.shift[layer] = self.shift[before]

    @property
    def shortened(self) -> bool:
        """Whether the cache holds other tokens, or at other places or positions, than a model would have put there."""
        for columns in self.columns.values():
            whole = torch.arange(columns.shape[1], device=columns.device)
            if columns.shape[1] != self.seen or bool(((columns >= 0) & (columns != whole)).any()):
                return True
        return any(bool(shift.any()) for shift in self.shift.values())

    @property
    def _fewest(self) -> int:
        """Tokens in the layer that holds the fewest."""
        return min(columns.shape[1] for columns in self.columns.values())

    def keep_in(self, cache: Any) -> None:
        """Hand this ledger to the cache it describes."""
        if isinstance(cache, Cache):
            watch_cache(cache, self)

    @contextmanager
    def counted_whole(self) -> Iterator[None]:
        """While open, and between calls, the cache's length is that of the full sequence."""
        self.whole = True
        try:
            yield
        finally:
            self.whole = False

    # --- what a watched cache asks and tells ---------------------------------------------------------------------

    def may_grow(self, held: int) -> bool:
        """Whether somebody may write to the cache; False lets go of the watch, since the cache was emptied.

        Raises:
            InputError: the cache was shortened, and no session is at work on it.
        """
        if self.in_call or not held:
            return self.in_call
        if self.undo is not None:
            raise InputError(_TORN)
        if self.shortened:
            raise InputError(
                f"This cache holds {self._fewest} of the {self.seen} tokens that it stands for, so it cannot go on "
                "outside a session: a model would count positions and masks by what is left. Go on inside a "
                "`with tk.reduced(...)` block, or run the whole prompt again without this cache."
            )
        return True

    def length(self, layer: int, held: int) -> int:
        """The length that the cache reports of a layer, where it holds `held` tokens."""
        return self.stands_for(layer, held) if self.whole and not self.in_call else held

    def stands_for(self, layer: int, held: int) -> int:
        """Columns of the full sequence that `held` tokens of a layer stand for: some may have been taken back."""
        return self.seen - (self._segment(layer).shape[1] - held) if self.columns else held

    def rows(self, pick: Callable[[Tensor], Tensor]) -> None:
        """Follow the cache, whose rows were moved; `pick` does the same to a tensor with a row for each."""
        self.columns = {segment: pick(columns) for segment, columns in self.columns.items()}
        self.shift = {segment: pick(shift) for segment, shift in self.shift.items()}
        self.next = None if self.next is None else pick(self.next)


def ledger_of(cache: Cache) -> CacheLedger | None:
    """What a session has noted about a cache; None if none has."""
    watcher = cache_watcher(cache)
    return watcher if isinstance(watcher, CacheLedger) else None


def columns_seen(cache: Cache) -> int:
    """Tokens of the full sequence that a cache stands for: masks of a call that goes on cover them and its own."""
    ledger, held = ledger_of(cache), keys_seen(cache, 0)
    return held if ledger is None else ledger.stands_for(0, held)


_TORN: Final = (
    "A call that wrote to this cache was interrupted, so its layers do not hold the same tokens. Run the prompt again "
    "without it."
)
