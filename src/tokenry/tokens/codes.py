"""Tokens of a codec: discrete codes or continuous latents of a batch of pictures, videos, sounds or shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Self, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError
from tokenry.tokens.reduction import prefix_mask
from tokenry.tokens.rows import TokenRows, read_rows, write_rows

Grid: TypeAlias = tuple[int, int, int]
"""Frames, rows and columns: (t, h, w)."""


@dataclass(frozen=True, eq=False)
class Codes(TokenRows):
    """Discrete tokens of a codec; ragged like `Reduction`.

    Attributes:
        ids: g numbers for each token: residual depths (coarse first) or factors; 1 for a plain codebook. -1 behind
            an item's `length`.
        length: tokens of each item. Less than its grid or its scales have places: a prefix.
        sizes: entries of each group's codebook.
        grid: (t, h, w) of each item's token grid, in raster order; None for 1-D codecs.
        scales: grids of the steps of a multi-scale codec, coarse first, whose tokens follow one another; None for
            codecs of one scale.
        codec: fingerprint of the codec that made them.
    """

    kind: ClassVar[str] = "codes"

    ids: Int[Tensor, "b n g"]
    length: Int[Tensor, " b"]
    sizes: tuple[int, ...]
    grid: Int[Tensor, "b 3"] | None
    scales: tuple[Grid, ...] | None
    codec: str

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.ids.is_floating_point() or self.length.shape != self.ids.shape[:1]:
            raise InputError(
                f"Codes are whole numbers [items, tokens, groups] with a length for each item; got {self.ids.dtype} "
                f"{tuple(self.ids.shape)} and lengths {tuple(self.length.shape)}."
            )
        if len(self.sizes) != self.ids.shape[2] or any(size < 1 for size in self.sizes):
            raise InputError(
                f"Codebooks have 1 entry or more, one codebook for each of {self.ids.shape[2]} groups; got sizes "
                f"{self.sizes}."
            )
        self.check_rows(self.ends[-1] if self.scales is not None else None)
        real = self.mask[..., None]
        size = torch.tensor(self.sizes, device=self.ids.device)
        if bool(torch.where(real, (self.ids < 0) | (self.ids >= size), self.ids != -1).any()):
            raise InputError(
                f"Codes lie in 0..size-1 (sizes {self.sizes}) and are -1 behind an item's length "
                f"{self.length.tolist()}; got {self.ids.min()} to {self.ids.max()}."
            )

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return self.ids.shape[1]

    @property
    def ends(self) -> tuple[int, ...]:
        """Where each scale ends, in tokens: ``prefix(ends[k - 1])`` are the first k scales. Empty without scales."""
        return tuple(accumulate(math.prod(scale) for scale in self.scales or ()))

    def bits(self) -> Float[Tensor, " b"]:
        """Bits of each item in codes of fixed length: tokens times the sum of log2 of the sizes."""
        return self.length.double() * sum(map(math.log2, self.sizes))

    def prefix(self, n: int | Sequence[int] | Int[Tensor, " b"]) -> Self:
        """The first n tokens of each item, or as many as it has.

        Args:
            n: one number, or one for each item.

        Raises:
            InputError: a negative number, or numbers for another batch.
        """
        length = self.shorter(n)
        ids = self.ids[:, : int(length.max()) if len(length) else 0]
        return replace(
            self, ids=ids.masked_fill(~prefix_mask(length, ids.shape[1])[..., None], -1), length=length
        )

    def flat(self, offset: int = 0) -> Int[Tensor, "b s"]:
        """One row of ids for each item, as a language model reads them; -1 is padding.

        The groups of a token follow one another, and each has a range of ids of its own: group 0 begins at `offset`,
        group 1 behind its codebook. All together they are ``sum(sizes)`` ids.
        """
        return torch.where(self.ids < 0, -1, self.ids + _starts(self.sizes, offset, self.ids)).flatten(1)

    @classmethod
    def of_flat(
        cls,
        flat: Int[Tensor, "b s"],
        sizes: tuple[int, ...],
        codec: str,
        *,
        offset: int = 0,
        grid: Int[Tensor, "b 3"] | None = None,
        scales: tuple[Grid, ...] | None = None,
    ) -> Self:
        """The inverse of `flat`.

        Raises:
            InputError: ids outside the range of their group, or an item that ends within a token.
        """
        groups = len(sizes)
        if flat.shape[1] % groups or bool(((flat >= 0).sum(1) % groups).any()):
            raise InputError(
                f"Items of {(flat >= 0).sum(1).tolist()} ids do not divide into tokens of {groups} groups."
            )
        ids = flat.unflatten(1, (-1, groups))
        used = ids >= 0
        ids = torch.where(used, ids - _starts(sizes, offset, ids), -1)
        return cls(ids, used[..., 0].sum(1), sizes, grid, scales, codec)

    def to(self, device: torch.device | str) -> Self:
        """The same codes on another device."""
        grid = None if self.grid is None else self.grid.to(device)
        return replace(self, ids=self.ids.to(device), length=self.length.to(device), grid=grid)

    def to_safetensors(self, path: Path | str) -> None:
        """Write them to a file, whole or not at all."""
        extra = {"sizes": self.sizes, "scales": self.scales, "codec": self.codec}
        write_rows(Path(path), self.kind, {"ids": self.ids, "length": self.length}, self.grid, extra)

    @classmethod
    def from_safetensors(cls, path: Path | str) -> Self:
        """The inverse of `to_safetensors`.

        Raises:
            InputError: no file of codes.
        """
        tensors, extra = read_rows(Path(path), cls.kind)
        scales = extra["scales"] and tuple((t, h, w) for t, h, w in extra["scales"])
        return cls(**tensors, sizes=tuple(extra["sizes"]), scales=scales, codec=extra["codec"])


@dataclass(frozen=True, eq=False)
class Latents(TokenRows):
    """Continuous tokens of a codec.

    Attributes:
        values: a vector for each token; behind an item's `length` anything finite.
        length, grid, codec: see `Codes`.
    """

    kind: ClassVar[str] = "latents"

    values: Float[Tensor, "b n d"]
    length: Int[Tensor, " b"]
    grid: Int[Tensor, "b 3"] | None
    codec: str

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.length.shape != self.values.shape[:1]:
            raise InputError(
                f"Latents are vectors [items, tokens, width] with a length for each item; got "
                f"{tuple(self.values.shape)} and lengths {tuple(self.length.shape)}."
            )
        self.check_rows(None)

    @property
    def width(self) -> int:
        """Tokens of a row, padding included."""
        return self.values.shape[1]

    def prefix(self, n: int | Sequence[int] | Int[Tensor, " b"]) -> Self:
        """The first n tokens of each item, or as many as it has; see `Codes.prefix`."""
        length = self.shorter(n)
        return replace(self, values=self.values[:, : int(length.max()) if len(length) else 0], length=length)

    def to(self, device: torch.device | str) -> Self:
        """The same latents on another device."""
        grid = None if self.grid is None else self.grid.to(device)
        return replace(self, values=self.values.to(device), length=self.length.to(device), grid=grid)

    def to_safetensors(self, path: Path | str) -> None:
        """Write them to a file, whole or not at all."""
        parts = {"values": self.values, "length": self.length}
        write_rows(Path(path), self.kind, parts, self.grid, {"codec": self.codec})

    @classmethod
    def from_safetensors(cls, path: Path | str) -> Self:
        """The inverse of `to_safetensors`.

        Raises:
            InputError: no file of latents.
        """
        tensors, extra = read_rows(Path(path), cls.kind)
        return cls(**tensors, codec=extra["codec"])


def _starts(sizes: tuple[int, ...], offset: int, like: Tensor) -> Int[Tensor, " g"]:
    """The first id of each group."""
    return offset + torch.tensor([0, *accumulate(sizes)][:-1], dtype=like.dtype, device=like.device)
