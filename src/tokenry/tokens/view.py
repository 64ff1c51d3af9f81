"""What a method sees. A method never meets a module, a hook, a cache or an attention mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import ReductionError, UnsupportedError
from tokenry.tokens.moved import former_names
from tokenry.tokens.needs import ColumnKind, Depth, Tower
from tokenry.tokens.reduction import gather_rows, prefix_mask

__getattr__ = former_names(__name__)


class AttentionView(ABC):
    """Exact quantities of one decoder layer's attention, computed without the attention matrix.

    Rows are the sequences of the batch; columns the tokens of the sequence as it is at this layer (system, visual and
    text, left-padded). Everything is float32.
    """

    @abstractmethod
    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads t"]:
        """Attention probabilities of one query per row (by default the last token), over all columns."""

    def rows(self, queries: Int[Tensor, "rows k"]) -> Float[Tensor, "rows heads k t"]:
        """Attention probabilities of several queries per row, over all columns; those of a query -1 are zero."""
        found = torch.stack([self.row(query.clamp(min=0)) for query in queries.T], 2)
        return found.masked_fill((queries < 0)[:, None, :, None], 0)

    def keys(self) -> Float[Tensor, "rows kv t d"]:
        """Keys as they meet the queries, rotated, one per key-value head; padding is zero.

        Raises:
            UnsupportedError: a view that has no keys.
        """
        raise UnsupportedError(f"{type(self).__name__} knows attention, but no keys.")

    @abstractmethod
    def mass(self, group: Bool[Tensor, "rows t"]) -> Float[Tensor, "rows heads t"]:
        """Probability mass that each query puts on a group of columns."""

    @abstractmethod
    def propagate(
        self, p: Float[Tensor, "rows heads t"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads t"]:
        """One step of ``p <- p @ softmax(logits / temperature)``: the mass that every column receives from p."""


@dataclass(frozen=True, eq=False)
class _FiniteAttention(AttentionView):
    """Another view's quantities, refused where they are not finite: nothing that is compared with NaN is above it.

    Attributes:
        of: where they come from.
        real: which columns are tokens; what padding holds does not matter.
    """

    of: AttentionView
    real: Bool[Tensor, "rows t"]

    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads t"]:
        return self._checked(self.of.row(query))

    def rows(self, queries: Int[Tensor, "rows k"]) -> Float[Tensor, "rows heads k t"]:
        found = self.of.rows(queries)
        self._checked(found.sum(2))
        return found

    def keys(self) -> Float[Tensor, "rows kv t d"]:
        found = self.of.keys()
        self._checked(found.sum(3))
        return found

    def mass(self, group: Bool[Tensor, "rows t"]) -> Float[Tensor, "rows heads t"]:
        return self._checked(self.of.mass(group))

    def propagate(
        self, p: Float[Tensor, "rows heads t"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads t"]:
        return self._checked(self.of.propagate(p, temperature))

    def _checked(self, values: Float[Tensor, "rows heads t"]) -> Float[Tensor, "rows heads t"]:
        _refuse_nan(values.sum(1), self.real, "attention weights", "sequences")
        return values


class EncoderView(ABC):
    """Quantities of the vision encoder, for the tokens of a view. Everything is float32; layers are its blocks."""

    @abstractmethod
    def cls_attention(self, layer: int) -> Float[Tensor, "items heads n"]:
        """Attention probabilities of [CLS] over all keys, cut to the tokens."""

    @abstractmethod
    def cls_logits(self, layer: int) -> Float[Tensor, "items heads n"]:
        """The same before the softmax."""

    @abstractmethod
    def keys(self, layer: int) -> Float[Tensor, "items heads n d"]:
        """Keys as they meet the queries."""


@dataclass(frozen=True, eq=False)
class _Recorded(EncoderView):
    """[CLS] rows given by hand."""

    rows: Mapping[int, Float[Tensor, "items heads n"]]

    def cls_attention(self, layer: int) -> Float[Tensor, "items heads n"]:
        return self.rows[layer]

    def cls_logits(self, layer: int) -> Float[Tensor, "items heads n"]:
        raise UnsupportedError(_BY_HAND)

    def keys(self, layer: int) -> Float[Tensor, "items heads n d"]:
        raise UnsupportedError(_BY_HAND)


_BY_HAND = (
    "This view was made by hand with [CLS] rows only; give it an `encoder` that has more (EncoderView)."
)


@dataclass(frozen=True, eq=False)
class _EncoderOfSome(EncoderView):
    """Another view's quantities for some of its tokens.

    Attributes:
        of: where they come from.
        index: which tokens, in order; -1 = padding.
    """

    of: EncoderView
    index: Int[Tensor, "items k"]

    def cls_attention(self, layer: int) -> Float[Tensor, "items heads k"]:
        return gather_rows(self.of.cls_attention(layer).mT, self.index).mT

    def cls_logits(self, layer: int) -> Float[Tensor, "items heads k"]:
        return gather_rows(self.of.cls_logits(layer).mT, self.index).mT

    def keys(self, layer: int) -> Float[Tensor, "items heads k d"]:
        keys = self.of.keys(layer).transpose(1, 2)
        return gather_rows(keys.flatten(2), self.index).unflatten(2, keys.shape[2:]).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class TokenView:
    """A batch of items (a picture, a crop group, a video segment) at one point of the model; read-only.

    Attributes:
        features: the items' tokens, padded to the longest item with any finite numbers.
        length: tokens per item; real tokens come first.
        grid: (frames, height, width) of each item's token grid as the encoder laid it out, or (1, 1, n) where tokens
            have no grid (newline tokens between rows, tokens already dropped).
        source: each token's index in the item as the encoder delivered it (-1 = padding): where it sits on the grid.
        tile: which tile of the item a token comes from; 0 is the only picture, or the thumbnail. -1 = a token that
            comes from no tile (a newline).
        cell: (row, column) of each token in its own tile (frame); -1 where it is not known, and for tokens of no tile.
        tiles: (rows, columns) in which each item's tiles lie beside each other, its thumbnail left out: (1, 1) for a
            picture that was not cut; 0 where it is not known.
        image_size: (height, width) of each picture in pixels before the processor resized it; 0 where it is not told.
        size: tokens of the encoder's that each token stands for: 1, or more after a merge.
        protected: tokens that may neither leave nor be merged.
        entry: tokens each item had where this method first met it; schedules are shares of this.
        tower: the stack of blocks that the cut is in.
        layer: block about to run; of the decoder, 0 = the way into the language model.
        depth: depth of the host.
        row: the sequence of the batch that an item belongs to.
        slot: the column of each token in its sequence as it is now (-1 = padding).
        columns: what the columns of the sequences are, as `ColumnKind`: 0 text before the row's first visual token,
            1 visual, 2 text after it, -1 padding.
        key: 64-bit fingerprint of each item's own pixels: equal for the same picture in any batch. Seeds randomness.
        text, text_length: the text after the item's picture as token embeddings, if asked for (`Needs.text`).
    """

    features: Float[Tensor, "items n d"]
    length: Int[Tensor, " items"]
    grid: Int[Tensor, "items 3"]
    source: Int[Tensor, "items n"]
    tile: Int[Tensor, "items n"]
    cell: Int[Tensor, "items n 2"]
    tiles: Int[Tensor, "items 2"]
    image_size: Int[Tensor, "items 2"]
    size: Float[Tensor, "items n"]
    protected: Bool[Tensor, "items n"]
    entry: Int[Tensor, " items"]
    tower: Tower
    layer: int
    depth: Depth
    row: Int[Tensor, " items"]
    slot: Int[Tensor, "items n"]
    columns: Int[Tensor, "rows t"]
    key: Int[Tensor, " items"]
    text: Float[Tensor, "items l e"] | None = None
    text_length: Int[Tensor, " items"] | None = None
    _attention: AttentionView | None = field(default=None, repr=False)
    encoder: EncoderView | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "items n d"],
        *,
        length: Int[Tensor, " items"] | None = None,
        grid: Int[Tensor, "items 3"] | None = None,
        **parts: object,
    ) -> TokenView:
        """A view of tokens that belong to no model: to use a method on its own, or to test it.

        Args:
            features: the items' tokens.
            length: tokens per item; all by default.
            grid: (frames, height, width) per item; one row of the item's tokens by default.
            **parts: any other attribute; `cls_rows={layer: [items heads n]}` and `attention=AttentionView`.
        """
        items, n, _ = features.shape
        device = features.device
        length = torch.full((items,), n, device=device) if length is None else length
        index = torch.arange(n, device=device).expand(items, n)
        valid = prefix_mask(length, n)
        if grid is None:
            grid = torch.stack([torch.ones_like(length), torch.ones_like(length), length], 1)
        rows = parts.pop("cls_rows", None)
        attention = parts.pop("attention", None)
        view = cls(
            features=features,
            length=length,
            grid=grid,
            source=index.masked_fill(~valid, -1),
            tile=torch.zeros_like(index).masked_fill(~valid, -1),
            cell=cells_of(grid, index.masked_fill(~valid, -1)),
            tiles=torch.ones_like(grid[:, :2]),
            image_size=torch.zeros_like(grid[:, :2]),
            size=valid.float(),
            protected=torch.zeros_like(valid),
            entry=length,
            tower=Tower.DECODER,
            layer=0,
            depth=Depth(encoder=0, decoder=1),
            row=torch.arange(items, device=device),
            slot=index.masked_fill(~valid, -1),
            columns=valid.long().masked_fill(~valid, -1),
            key=torch.zeros(items, dtype=torch.long, device=device),
            _attention=attention,  # type: ignore[arg-type]
            encoder=_Recorded(rows) if isinstance(rows, dict) else None,
        )
        return replace(view, **parts)  # type: ignore[arg-type]

    @property
    def valid(self) -> Bool[Tensor, "items n"]:
        """Which tokens are real, not padding."""
        return prefix_mask(self.length, self.features.shape[1])

    def check(self) -> None:
        """Refuse features and text that are not finite: what a method makes of them would pass for a result.

        Raises:
            ReductionError: naming the items.
        """
        # One NaN or infinity makes a sum that is not finite; a sum is cheaper than looking at every number twice.
        _refuse_nan(self.features.sum(2, dtype=torch.float32), self.valid, "features")
        if self.text is not None:
            sums = self.text.sum(2, dtype=torch.float32)
            length = self.text_length
            words = torch.ones_like(sums).bool() if length is None else prefix_mask(length, sums.shape[1])
            _refuse_nan(sums, words, "text embeddings")

    @property
    def attention(self) -> AttentionView:
        """The decoder attention asked for in `Needs.attention`; numbers of it that are not finite are refused."""
        if self._attention is None:
            raise UnsupportedError(
                "This method reads decoder attention, which was not collected (see Needs.attention)."
            )
        return _FiniteAttention(self._attention, self.columns > ColumnKind.PADDING)

    def cls_attention(self, layer: int) -> Float[Tensor, "items heads n"]:
        """Attention probabilities of [CLS] in an encoder block, over all keys, then cut to the item's tokens.

        Rows do not sum to 1 (the share that [CLS] puts on itself is gone); tokens that come from no tile score 0.
        """
        rows = self._encoder("[CLS] attention", "cls_layers").cls_attention(layer)
        _refuse_nan(rows.sum(1), self.valid, f"[CLS] attention of block {layer}")
        return rows

    def cls_logits(self, layer: int) -> Float[Tensor, "items heads n"]:
        """The [CLS] row of an encoder block before its softmax; tokens that come from no tile have 0."""
        rows = self._encoder("[CLS] logits", "cls_logit_layers").cls_logits(layer)
        _refuse_nan(rows.sum(1), self.valid, f"[CLS] logits of block {layer}")
        return rows

    def encoder_keys(self, layer: int) -> Float[Tensor, "items heads n d"]:
        """Keys of an encoder block, as they meet its queries; tokens that come from no tile have zeros."""
        keys = self._encoder("the encoder's keys", "key_layers").keys(layer)
        _refuse_nan(keys.sum((1, 3)), self.valid, f"keys of block {layer}")
        return keys

    def _encoder(self, what: str, need: str) -> EncoderView:
        if self.encoder is None:
            raise UnsupportedError(f"This method reads {what}, which was not collected (see Needs.{need}).")
        return self.encoder

    def coordinates(self) -> Int[Tensor, "items n 3"]:
        """(frame, row, column) of each token on its item's grid; -1 for padding."""
        height, width = self.grid[:, None, 1], self.grid[:, None, 2]
        frame = self.source.clamp(min=0) // (height * width).clamp(min=1)
        cells = cells_of(self.grid, self.source)
        return torch.cat([frame.masked_fill(self.source < 0, -1)[..., None], cells], -1)

    def only(self, index: Int[Tensor, "items k"]) -> TokenView:
        """The same items with some of their tokens: token `index[i, j]` of item i comes j-th; -1 = padding.

        Attention is that over all columns still: the columns of a sequence are not the view's to take away.
        """
        return replace(
            self,
            features=gather_rows(self.features, index),
            length=(index >= 0).sum(1),
            source=_taken(self.source, index),
            tile=_taken(self.tile, index),
            cell=_taken(self.cell, index),
            size=_taken(self.size, index, 0),
            protected=_taken(self.protected, index, False),
            slot=_taken(self.slot, index),
            encoder=None if self.encoder is None else _EncoderOfSome(self.encoder, index),
        )

    def of_columns(self, values: Float[Tensor, "rows t"]) -> Float[Tensor, "items n"]:
        """Values per column of the sequences, cut out for each item's tokens (padding: 0)."""
        cut = gather_rows(values[self.row][..., None], self.slot)[..., 0]
        _refuse_nan(cut.masked_fill(cut.isinf(), 0), self.valid, "values per column (attention)")
        return cut


def cells_of(grid: Int[Tensor, "items 3"], source: Int[Tensor, "items n"]) -> Int[Tensor, "items n 2"]:
    """(row, column) of each token in its frame, where every frame of an item's grid is a tile; -1 for padding."""
    height, width = grid[:, None, 1], grid[:, None, 2]
    index = source.clamp(min=0)
    cells = torch.stack([index // width.clamp(min=1) % height.clamp(min=1), index % width.clamp(min=1)], -1)
    return cells.masked_fill((source < 0)[..., None], -1)


def _taken(values: Tensor, index: Int[Tensor, "items k"], fill: float | bool = -1) -> Tensor:
    """``values[i, index[i, j]]``, `fill` where the index is -1."""
    missing = index < 0
    if values.shape[1] == 0:
        return values.new_full((*index.shape, *values.shape[2:]), fill)
    taken = values[torch.arange(len(index), device=index.device)[:, None], index.clamp(min=0)]
    return taken.masked_fill(missing.view(*missing.shape, *[1] * (values.ndim - 2)), fill)


def _refuse_nan(
    values: Float[Tensor, "b n"], real: Bool[Tensor, "b n"], what: str, whose: str = "items"
) -> None:
    """See that all numbers that belong to real tokens are finite."""
    if bool((bad := ~values.isfinite() & real).any()):
        raise ReductionError(
            f"The {what} of {whose} {bad.any(1).nonzero()[:, 0].tolist()} are NaN or infinite; check the model and its "
            "inputs (half precision may have overflowed)."
        )
