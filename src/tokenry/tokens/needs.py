"""Where a method acts on a model, and what it may ask to be shown there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

from tokenry.tokens.errors import InputError


class Stage(StrEnum):
    """Where in the model tokens leave, from its inputs to its memory."""

    PIXELS = "pixels"
    """Before the vision tower: pixels or patches that are never encoded."""
    ENCODER = "encoder"
    """Inside the vision tower."""
    INPUT = "input"
    """On the way into the language model, before its first layer."""
    LAYER = "layer"
    """Inside the language model."""
    CACHE = "cache"
    """In the key-value cache."""


class Tower(StrEnum):
    """The two stacks of blocks of a vision-language model."""

    ENCODER = "encoder"
    DECODER = "decoder"


class Cut(NamedTuple):
    """A point before a block of a tower, where tokens may leave."""

    tower: Tower
    block: int

    @classmethod
    def of(cls, value: CutLike) -> Cut:
        """Read a cut: a number n is the decoder's block n, and 0 is the way into the language model.

        Raises:
            InputError: no cut, or a block that cannot be.
        """
        cut = value if isinstance(value, Cut) else cls(Tower.DECODER, value)
        if not isinstance(cut.block, int) or isinstance(cut.block, bool) or cut.block < 0:
            raise InputError(f"A cut is a decoder layer (0, 1, ...), or Cut(tower, block); got {value!r}.")
        return cut

    @property
    def stage(self) -> Stage:
        """The stage that it belongs to."""
        if self.tower is Tower.ENCODER:
            return Stage.ENCODER
        return Stage.LAYER if self.block else Stage.INPUT


CutLike = int | Cut
"""What `Cut.of` reads."""


@dataclass(frozen=True)
class Depth:
    """How deep the host is: transformer blocks of its vision encoder (0 if it has none) and of its decoder."""

    encoder: int
    decoder: int


class ReadAttention(StrEnum):
    """Which decoder layer's attention a method reads at a cut."""

    PREVIOUS = "previous"
    """That of the block just executed."""
    NEXT = "next"
    """That of the block about to run, with its own projections on the tokens as they are."""


class ColumnKind(IntEnum):
    """What a column of a sequence is."""

    PADDING = -1
    BEFORE = 0
    """Text before the row's first visual token."""
    VISUAL = 1
    AFTER = 2
    """Text after the row's first visual token."""


@dataclass(frozen=True)
class Needs:
    """What must be collected for one cut of a method, and nothing more.

    Attributes:
        cls_layers: encoder blocks (0-based) whose [CLS] attention row is read.
        cls_logit_layers: encoder blocks whose [CLS] row is read before its softmax.
        key_layers: encoder blocks whose keys are read.
        attention: the decoder layer whose attention is read.
        text: whether the text tokens of the item's sequence are read.
    """

    cls_layers: tuple[int, ...] = ()
    cls_logit_layers: tuple[int, ...] = ()
    key_layers: tuple[int, ...] = ()
    attention: ReadAttention | str | None = None
    text: bool = False

    def __post_init__(self) -> None:
        if self.attention is None or self.attention in tuple(ReadAttention):
            return
        names = ", ".join(repr(each.value) for each in ReadAttention)
        raise InputError(
            f"A method reads the attention of the layer {names} to a cut, got {self.attention!r}."
        )

    @property
    def cls(self) -> bool:
        """Whether anything of [CLS] is read."""
        return bool(self.cls_layers or self.cls_logit_layers)

    @property
    def encoder_layers(self) -> tuple[int, ...]:
        """All encoder blocks that something is read of, ascending."""
        return tuple(sorted({*self.cls_layers, *self.cls_logit_layers, *self.key_layers}))

    @classmethod
    def of_encoder(cls, several: Iterable[Needs]) -> Needs:
        """All that several cuts read of the encoder."""
        several = tuple(several)
        return cls(
            cls_layers=_union(needs.cls_layers for needs in several),
            cls_logit_layers=_union(needs.cls_logit_layers for needs in several),
            key_layers=_union(needs.key_layers for needs in several),
        )


def _union(several: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted({layer for layers in several for layer in layers}))
