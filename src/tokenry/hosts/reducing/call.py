"""One call of the decoder: the segments its tokens pass through, and what the cache remembers of them afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

from tokenry.hosts.host import Host
from tokenry.hosts.masks import additive
from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.items import Items
from tokenry.hosts.reducing.ledger import CacheLedger
from tokenry.hosts.reducing.restricting import column_kinds, columns_at, restricted
from tokenry.hosts.upstream import (
    Cache,
    StaticCache,
    attention_kernel,
    is_flash,
    key_columns,
)
from tokenry.tokens import (
    ColumnKind,
    DenseReduction,
    InputError,
    Positions,
    Reduction,
    Restriction,
    UnsupportedError,
)

ARGUMENT: Final = "tokenry_call"
"""Keyword argument under which a decoder that passes such on hands its call to its layers."""


@dataclass(frozen=True, eq=False)
class Segment:
    """The tokens of one call between two cuts.

    Attributes:
        first: the decoder layer it begins with.
        columns: the call's columns that are left, padded on the left with -1.
        real: which of them are tokens, not padding of this table or of the batch.
        ids: their position ids, per RoPE axis; some models (Qwen3-Omni) count in floating point.
        own: whether those are the ids of the segment before, gathered, so that its rotary embeddings can be too.
    """

    first: int
    columns: Int[Tensor, "b m"]
    real: Bool[Tensor, "b m"]
    ids: Real[Tensor, "a b m"]
    own: bool


class DecoderCall:
    """One call of the decoder: a prompt, or the next few tokens of one.

    It is created as the call begins and dealt with by the layers' hooks. What was decided at a cut stays decided, so
    that gradient checkpointing, which runs layers again, meets the same tokens.

    A call that goes on may bring a 4-D mask of its own (`drawn`), as draft trees do: like a 2-D one it covers the full,
    unshortened sequence, and each layer is given the columns that it holds. The cache may be cut to fewer tokens
    between two calls, by the same number in every layer; what is left counts as that many columns.

    Attributes:
        host, cache, shape: the model, the cache it was given, sequences and tokens of the call.
        ledger: what the cache holds.
        begins: whether nothing came before this call.
        offset: columns that came before it.
        drawn: whether the call goes on with a 4-D mask of its own.
        padding_mask: which columns seen so far, this call's included, are no padding; None = all, or `drawn`.
        tokens: ids of the call; None where it came as embeddings alone.
        kinds: visual columns by modality.
        items: the pictures, as they are now; None where the call has none.
        met: the pictures as the encoder delivered them.
        tail: columns at the end of the call that are no part of the prompt: drafts of an answer, or an answer so far.
        again: whether the same prompt was run before in the same generation, and only its decisions are wanted.
        prompt: ids of the call without its tail, where `generate` makes the call.
        segments: what is left of the call, cut by cut.
        full_ids: position ids of the call as the model counts them, per RoPE axis.
        outer: 4-D masks of the call that the decoder was given, by type of layer; "" = for all types.
        deepstack: by layer, what is added to the sequences before it.
        entries: tokens of each picture when a method first saw it, by the method's number.
        steps, decisions: what the methods decided, in order, and by (layer, number of the method).
        moves: what was done to hidden states at a layer's cut.
        heard: query, key and scale of decoder layers that are listened to.
        probed: the layer that is run for its queries and keys alone, while it is.
        selection_s: seconds spent choosing tokens.
    """

    def __init__(
        self,
        host: Host,
        cache: Cache | None,
        mask: Any,
        shape: tuple[int, int],
        *,
        cuts: Iterable[int] = (),
        restrictions: Sequence[Restriction] = (),
        prefix: torch.device | None = None,
    ) -> None:
        """Begin a call.

        Args:
            host: the model.
            cache: the cache it was given, if any.
            mask: the attention mask it was given, if any.
            shape: sequences and tokens of the call.
            cuts: decoder layers before which methods act.
            restrictions: what restricts attention.
            prefix: see `CacheLedger.of`.

        Raises:
            InputError, UnsupportedError: a cache or an attention mask that cannot be accounted for.
        """
        self.host, self.cache, self.shape = host, cache, shape
        self.ledger = CacheLedger.of(cache, shape[0], prefix=prefix)
        for cut in cuts:  # a cache may come from a session with other methods
            self.ledger.split(cut)
        self._held = dict(self.ledger.columns)
        self.begins = self.ledger.seen == 0
        self.offset = self.ledger.seen
        own = isinstance(mask, Tensor) and mask.ndim == 4 and not isinstance(cache, StaticCache)
        self.drawn = own and not self.begins
        self.padding_mask = _padding(mask, self.offset, shape[1], drawn=self.drawn)
        self.kinds: dict[str, Bool[Tensor, "b t"]] = {}
        self.tokens: Int[Tensor, "b t"] | None = None
        self.items: Items | None = None
        self.segments: list[Segment] = []
        self.outer: dict[str, Tensor] = {}
        self.deepstack: dict[int, Float[Tensor, "b t d"]] = {}
        self.full_ids: Real[Tensor, "a b t"] = torch.zeros(1, 1, 0, dtype=torch.long)
        self.steps: list[tuple[int, Reduction | DenseReduction]] = []
        self.met: Items | None = None
        self.prompt: Int[Tensor, "b t"] | None = None
        self.tail, self.again = 0, False
        self.entries: dict[int, Int[Tensor, " items"]] = {}
        self.decisions: dict[tuple[int, int], Reduction | DenseReduction] = {}
        self.moves: dict[int, list[Callable[[Tensor], Tensor]]] = {}
        self.heard: dict[int, tuple[Tensor, Tensor, float]] = {}
        self.probed: int | None = None
        self.selection_s = 0.0
        depth = host.depth if restrictions else None
        self._restrictions = [(r, r.layers(depth)) for r in restrictions if depth is not None]
        self._masks: dict[tuple[int, str, int | None], Tensor | None] = {}
        self._keys: dict[tuple[int, str], Int[Tensor, "b k"]] = {}

    def expect(self, ids: Real[Tensor, "... t"] | None) -> None:
        """Notice a caller that sends again what the cache stands for, where no mask tells how much there is.

        Raises:
            InputError: position ids that begin before the end of what was seen.
        """
        after, many = self.ledger.next, self.shape[1] > 1  # single steps are not worth looking at
        if ids is None or after is None or self.padding_mask is not None or self.drawn or not many:
            return
        if bool((ids[..., 0] < after).any()):
            raise InputError(
                f"This call's tokens begin at position {int(ids[..., 0].min())}, but positions up to "
                f"{int(after.max()) - 1} were seen before. Where `generate` goes on from a cache, pass the new tokens "
                "only, and an attention mask over all of the text: it would cut the whole text by the length of the "
                "shortened cache."
            )

    def meet(self, items: Items) -> None:
        """Take note of the call's pictures."""
        self.items = self.met = items

    # --- segments ------------------------------------------------------------------------------------------------

    def begin(self, ids: Real[Tensor, "a b t"], keep: Bool[Tensor, "b t"], rule: Positions) -> Segment:
        """The first segment: what goes into the decoder.

        Args:
            ids: position ids of the call, as the model counts them.
            keep: columns that stay.
            rule: what happens to their ids.
        """
        self.full_ids = ids
        self.ledger.note(self.visual)
        if self.drawn and self.ledger.next is not None:
            # Branches of a tree share their ids; the next one is counted by the columns that will be left of it.
            self.ledger.next = self.ledger.next + self.shape[1]
        else:
            self.ledger.next = ids.amax((0, 2)) + 1
        if self.padding_mask is not None:  # padding costs as much as tokens do
            keep = keep & self.padding_mask[:, self.offset :]
        columns = layout.pack(keep)
        first = Segment(0, columns, self._real(columns), layout.take(ids, columns, 2), own=True)
        return self._enter(first, rule, None)

    def cut(self, layer: int, keep: Bool[Tensor, "b t"], rule: Positions) -> Segment:
        """The next segment: the columns that stay from `layer` on."""
        before = self.segments[-1]
        columns = layout.pack(keep)
        index = self.places(before, columns)
        segment = Segment(layer, columns, self._real(columns), layout.take(before.ids, index, 2), own=True)
        return self._enter(segment, rule, self.ledger.shift.get(before.first))

    def carry(self, layer: int) -> Segment:
        """The next segment of a call that drops nothing: the same columns, with the ids that this segment counts."""
        before = self.segments[-1]
        ids = self.full_ids - self._shift(layer)[None, :, None]
        same = bool((self._shift(layer) == self._shift(before.first)).all())
        segment = Segment(layer, before.columns, before.real, layout.take(ids, before.columns, 2), own=same)
        return self._remember(segment)

    def _enter(self, segment: Segment, rule: Positions, shift: Tensor | None) -> Segment:
        if not self.begins:  # later turns of a conversation go on counting as the first did
            ids = layout.take(self.full_ids - self._shift(segment.first)[None, :, None], segment.columns, 2)
            return self._remember(
                Segment(segment.first, segment.columns, segment.real, ids, own=segment.first == 0)
            )
        if rule is Positions.COMPACT:
            visual = layout.take(self.visual, segment.columns)
            ids = layout.compact(self.full_ids, segment.columns, segment.real, visual)
            last = ids.masked_fill(~segment.real, -1).amax((0, 2))
            segment = Segment(segment.first, segment.columns, segment.real, ids, own=segment.first == 0)
            shift = self.full_ids.amax((0, 2)) - last
        self.ledger.shift[segment.first] = torch.zeros_like(segment.columns[:, 0]) if shift is None else shift
        return self._remember(segment)

    def _shift(self, layer: int) -> Real[Tensor, " b"]:
        zero = torch.zeros(self.shape[0], dtype=torch.long, device=self.full_ids.device)
        return self.ledger.shift.get(layer, zero)

    def _remember(self, segment: Segment) -> Segment:
        if (
            self.segments and self.segments[-1].first == segment.first
        ):  # one method after another at the same layer
            self.segments.pop()
            self._masks = {name: mask for name, mask in self._masks.items() if name[0] != segment.first}
            self._keys = {name: keys for name, keys in self._keys.items() if name[0] != segment.first}
        columns = segment.columns.add(self.offset).masked_fill(~segment.real, -1)
        before = self._held.get(segment.first)
        self.ledger.columns[segment.first] = columns if before is None else torch.cat([before, columns], 1)
        self.segments.append(segment)
        return segment

    @property
    def cuts(self) -> set[int]:
        """Decoder layers at which a segment of what came before begins."""
        return set(self._held)

    def segment_at(self, layer: int) -> Segment:
        """The segment that a decoder layer runs in."""
        return next(s for s in reversed(self.segments) if s.first <= layer)

    def places(self, segment: Segment, columns: Int[Tensor, "b m"]) -> Int[Tensor, "b m"]:
        """Where the given columns stand in a segment (columns that are not there: anywhere)."""
        return layout.take(layout.places(segment.columns, self.shape[1]), columns)

    def _real(self, columns: Int[Tensor, "b m"]) -> Bool[Tensor, "b m"]:
        if self.padding_mask is None:
            return columns >= 0
        return (columns >= 0) & layout.take(self.padding_mask[:, self.offset :], columns)

    @property
    def ends(self) -> Int[Tensor, " items"]:
        """The last column of each picture, as the encoder delivered it."""
        assert self.met is not None
        return self.met.columns.amax(1)

    def kinds_of(self, columns: Int[Tensor, "b m"]) -> Int[Tensor, "b m"]:
        """What columns of the call are, as `ColumnKind`."""
        return layout.take(column_kinds(self.visual), columns).masked_fill(
            ~self._real(columns), ColumnKind.PADDING
        )

    @property
    def visual(self) -> Bool[Tensor, "b t"]:
        """Visual columns of the call, of any modality."""
        if not self.kinds:
            return torch.zeros(self.shape, dtype=torch.bool, device=self.full_ids.device)
        return functools.reduce(torch.logical_or, self.kinds.values())

    # --- what a layer needs --------------------------------------------------------------------------------------

    def mask(self, layer: int) -> Bool[Tensor, "b 1 q k"] | Tensor | None:
        """The attention mask of a layer over its own cached columns, in the form its kernel takes."""
        segment = self.segment_at(layer)
        restricting = [r for r, layers in self._restrictions if layer in layers]
        name = (segment.first, self.host.layer_type(layer), layer if restricting else None)
        if name not in self._masks:
            mask = self._build_mask(segment, layer)
            if restricting:
                assert self.ledger.visual is not None
                places = segment.columns.add(self.offset).masked_fill(~segment.real, -1)
                queries = columns_at(self.ledger.visual, places)
                keys = columns_at(self.ledger.visual, self.columns_of_keys(layer))
                mask = restricted(mask, layer, queries, keys, restricting)
            self._masks[name] = mask
        return self._masks[name]

    def _build_mask(self, segment: Segment, layer: int) -> Tensor | None:
        # Linear attention skips the padding of a prompt, and remembers the rest.
        if not self.host.takes_mask(layer):
            return segment.real.long() if self.begins and not bool(segment.real.all()) else None
        queries = segment.columns.add(self.offset).masked_fill(~segment.real, -1)
        keys = self.columns_of_keys(layer)
        real = keys >= 0
        if self.host.keys_of(layer) < segment.first:  # earlier keys: what has left since is hidden
            real &= layout.among(keys, self.ledger.columns[segment.first])
        if self.padding_mask is not None and not self.begins:  # rows of an earlier turn may have ended early
            real = real & layout.take(self.padding_mask, keys)
        if is_flash(self.host.text_config):
            return None if bool(real.all()) else real.long()
        outer = self.outer.get(self.host.layer_type(layer), self.outer.get(""))
        if outer is not None and (self.begins or self.drawn):
            rows = segment.columns.masked_fill(~segment.real, -1)
            return layout.crop_mask(outer, rows, keys, real)
        mask = layout.attention_mask(queries, keys, real, self.host.window(layer))
        kernel = attention_kernel(self.host.text_config)
        if "sdpa" in kernel:
            return mask
        if mask is None:
            mask = keys[:, None, None, :] <= queries[:, None, :, None]
        return additive(mask, self.host.model.dtype) if "eager" in kernel else mask

    def of_segment(self, segment: Segment, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the decoder hands to a layer besides hidden states, for the tokens of the layer's own segment."""
        if segment.first == 0:
            return arguments
        first = self.segments[0]
        return layout.take_each(arguments, tuple(first.columns.shape), self.places(first, segment.columns))

    def columns_of_keys(self, layer: int) -> Int[Tensor, "b k"]:
        """The column of every key that a layer attends to."""
        kind, source = self.host.layer_type(layer), self.host.keys_of(layer)
        owner = self.segment_at(source).first
        if (owner, kind) not in self._keys:
            columns = self.ledger.columns[owner]
            width = self.segment_at(source).columns.shape[1]
            self._keys[owner, kind] = key_columns(self.cache, source, width, columns)
        return self._keys[owner, kind]

    def rotary(self, segment: Segment, layer: int, given: Any, like: Tensor) -> Any:
        """Rotary embeddings of a segment's tokens: those of the first one gathered, or computed from its own ids."""
        if given is None or segment.first == 0:
            return given
        if all(s.own for s in self.segments if 0 < s.first <= segment.first):
            index = self.places(self.segments[0], segment.columns)
            return tuple(layout.take(part, index) for part in given)
        return self.host.rotate(layer, like, segment.ids)


def _padding(mask: Any, seen: int, new: int, *, drawn: bool) -> Bool[Tensor, "b t"] | None:
    """The 2-D padding mask over everything seen so far, or None for all ones or where the caller drew a 4-D one.

    Args:
        mask: what the call was given.
        seen: columns that came before it.
        new: its own columns.
        drawn: whether it goes on with a 4-D mask of its own.

    Raises:
        InputError: a mask of another length.
        UnsupportedError: a mask of another form.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or (mask.ndim != 2 and not drawn):
        raise UnsupportedError(
            "Only 2-D padding masks (ones and zeros, batch x tokens) can be shortened; this call has masks "
            "prepared per layer, as `generate` makes for static caches. Use the default cache."
        )
    if mask.shape[-1] != seen + new:
        raise InputError(
            f"The attention mask covers {mask.shape[-1]} tokens; {seen} were seen before and this call has {new}. "
            "Pass a mask of the full, unshortened length; and where `generate` goes on from a cache, the new tokens "
            "only, since it would cut the whole text by the length of the shortened cache."
        )
    if drawn:
        return None
    mask = mask.bool()
    return None if bool(mask.all()) else mask
