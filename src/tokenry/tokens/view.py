"""What a method sees, and what it may ask for. A method never meets a module, a hook, a cache or an attention mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import ReductionError, UnsupportedError
from tokenry.tokens.reduction import gather_rows, prefix_mask


class Stage(StrEnum):
    """Where in the model tokens leave."""

    ENCODER = "encoder"
    """Inside the vision tower."""
    INPUT = "input"
    """On the way into the language model, before its first layer."""
    LAYER = "layer"
    """Inside the language model."""
    CACHE = "cache"
    """In the key-value cache."""


@dataclass(frozen=True)
class Depth:
    """How deep the host is: transformer blocks of its vision encoder (0 if it has none) and of its decoder."""

    encoder: int
    decoder: int


@dataclass(frozen=True)
class Needs:
    """What must be collected for one cut of a method, and nothing more.

    Attributes:
        cls_layers: encoder blocks (0-based) whose [CLS] attention row is read.
        attention: the decoder layer whose attention is read: that of the block just executed ("previous"), or of
            the block about to run, with its own projections on the tokens as they are ("next").
        text: whether the text tokens of the item's sequence are read.
    """

    cls_layers: tuple[int, ...] = ()
    attention: str | None = None
    text: bool = False


class AttentionView(ABC):
    """Exact quantities of one decoder layer's attention, computed without the attention matrix.

    Rows are the sequences of the batch; columns the tokens of the sequence as it is at this layer (system, visual and
    text, left-padded). Everything is float32.
    """

    @abstractmethod
    def row(self, query: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows heads t"]:
        """Attention probabilities of one query per row (by default the last token), over all columns."""

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

    def mass(self, group: Bool[Tensor, "rows t"]) -> Float[Tensor, "rows heads t"]:
        return self._checked(self.of.mass(group))

    def propagate(
        self, p: Float[Tensor, "rows heads t"], temperature: float = 1.0
    ) -> Float[Tensor, "rows heads t"]:
        return self._checked(self.of.propagate(p, temperature))

    def _checked(self, values: Float[Tensor, "rows heads t"]) -> Float[Tensor, "rows heads t"]:
        _refuse_nan(values.sum(1), self.real, "attention weights", "sequences")
        return values


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
        entry: tokens each item had where this method first met it; schedules are shares of this.
        layer: decoder layer about to run; 0 = the way into the language model.
        depth: depth of the host.
        row: the sequence of the batch that an item belongs to.
        slot: the column of each token in its sequence as it is now (-1 = padding).
        columns: what the columns of the sequences are: 0 text before the row's first visual token, 1 visual,
            2 text after it, -1 padding.
        key: 64-bit fingerprint of each item's own pixels: equal for the same picture in any batch. Seeds randomness.
        text, text_length: the text after the item's picture as token embeddings, if asked for (`Needs.text`).
    """

    features: Float[Tensor, "items n d"]
    length: Int[Tensor, " items"]
    grid: Int[Tensor, "items 3"]
    source: Int[Tensor, "items n"]
    tile: Int[Tensor, "items n"]
    entry: Int[Tensor, " items"]
    layer: int
    depth: Depth
    row: Int[Tensor, " items"]
    slot: Int[Tensor, "items n"]
    columns: Int[Tensor, "rows t"]
    key: Int[Tensor, " items"]
    text: Float[Tensor, "items l e"] | None = None
    text_length: Int[Tensor, " items"] | None = None
    _attention: AttentionView | None = field(default=None, repr=False)
    _cls: Callable[[int], Float[Tensor, "items heads n"]] | None = field(default=None, repr=False)

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
            entry=length,
            layer=0,
            depth=Depth(encoder=0, decoder=1),
            row=torch.arange(items, device=device),
            slot=index.masked_fill(~valid, -1),
            columns=valid.long().masked_fill(~valid, -1),
            key=torch.zeros(items, dtype=torch.long, device=device),
            _attention=attention,  # type: ignore[arg-type]
            _cls=rows.__getitem__ if isinstance(rows, dict) else None,
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
        return _FiniteAttention(self._attention, self.columns >= 0)

    def cls_attention(self, layer: int) -> Float[Tensor, "items heads n"]:
        """Attention probabilities of [CLS] in an encoder block, over all keys, then cut to the item's tokens.

        Rows do not sum to 1 (the share that [CLS] puts on itself is gone); tokens that come from no tile score 0.
        """
        if self._cls is None:
            raise UnsupportedError(
                "This method reads [CLS] attention, which was not collected (see Needs.cls_layers)."
            )
        rows = self._cls(layer)
        _refuse_nan(rows.sum(1), self.valid, f"[CLS] attention of block {layer}")
        return rows

    def of_columns(self, values: Float[Tensor, "rows t"]) -> Float[Tensor, "items n"]:
        """Values per column of the sequences, cut out for each item's tokens (padding: 0)."""
        cut = gather_rows(values[self.row][..., None], self.slot)[..., 0]
        _refuse_nan(cut.masked_fill(cut.isinf(), 0), self.valid, "values per column (attention)")
        return cut


def _refuse_nan(
    values: Float[Tensor, "b n"], real: Bool[Tensor, "b n"], what: str, whose: str = "items"
) -> None:
    """See that all numbers that belong to real tokens are finite."""
    if bool((bad := ~values.isfinite() & real).any()):
        raise ReductionError(
            f"The {what} of {whose} {bad.any(1).nonzero()[:, 0].tolist()} are NaN or infinite; check the model and its "
            "inputs (half precision may have overflowed)."
        )
