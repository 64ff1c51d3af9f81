"""Views with everything a method may ask for: items are made one by one, then put together in any batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.laws.reducers.attention import HEADS, WIDTH, QKAttention
from tests.laws.strategies import noise, seeds
from tokenry.reduce import Reducer
from tokenry.tokens import Depth, TokenView

DEPTH = Depth(encoder=24, decoder=32)
"""The papers' own depths, so that their settings mean what they meant."""

DIM = 6


@dataclass(frozen=True, eq=False)
class Picture:
    """One item, without padding.

    Attributes:
        grid: (frames, height, width) as delivered.
        source: the tokens that are still there, as indices into what was delivered.
        tile: the tile of each token, -1 = a newline.
        entry: tokens it had when the method first met it.
        features: [n d].
        rows: [CLS] attention per encoder block [blocks heads n].
        key: fingerprint of its pixels.
    """

    grid: tuple[int, int, int]
    source: Tensor
    tile: Tensor
    entry: int
    features: Tensor
    rows: Tensor
    key: int

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, eq=False)
class Sequence:
    """One sequence without padding: text, pictures with text between them, text.

    Attributes:
        pictures: its items.
        before, after: text tokens before the first and after every picture.
        seed: of text, queries and keys.
    """

    pictures: tuple[Picture, ...]
    before: int
    after: int
    seed: int

    @property
    def columns(self) -> list[int]:
        """What its columns are: 0 text before the first picture, 1 visual, 2 text after."""
        columns = [0] * self.before
        for picture in self.pictures:
            columns += [1] * len(picture) + [2] * self.after
        return columns

    @property
    def text(self) -> Tensor:
        """The text after a picture [l d]."""
        return noise(self.after, DIM, seed=self.seed)

    def qk(self) -> Tensor:
        """Queries and keys [2 heads t d]."""
        return noise(2, HEADS, len(self.columns), WIDTH, seed=self.seed + 1)

    def slots(self, start: int) -> list[Tensor]:
        """The columns of each picture's tokens in a row where the sequence starts at `start`."""
        slots, column = [], start + self.before
        for picture in self.pictures:
            slots.append(torch.arange(column, column + len(picture)))
            column += len(picture) + self.after
        return slots


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of sequences at one cut; `view` pads it with numbers that look like tokens, but louder.

    Attributes:
        sequences: the batch.
        layer: the cut.
        dtype: of features and text.
        spare: columns of padding that nobody needs.
        poison: what is NaN at the first real token of every item: "features", "cls", "attention" or "text".
    """

    sequences: tuple[Sequence, ...]
    layer: int = 0
    dtype: torch.dtype = torch.float32
    spare: int = 0
    poison: str | None = None
    depth: Depth = field(default=DEPTH)

    @property
    def pictures(self) -> list[Picture]:
        """All items in order."""
        return [picture for sequence in self.sequences for picture in sequence.pictures]

    def alone(self) -> list[Scene]:
        """Every sequence as a batch of one, without spare padding."""
        return [replace(self, sequences=(sequence,), spare=0) for sequence in self.sequences]

    def view(self, method: Reducer) -> TokenView:
        """What the method is shown at this cut: what it asked for, and nothing more."""
        needs = method.needs(self.layer, self.depth)
        items = self.pictures
        n = max(map(len, items), default=0) + self.spare
        t = max((len(s.columns) for s in self.sequences), default=0) + self.spare
        b = len(items)
        features = 9 * noise(b, n, DIM, seed=self.spare)
        source, tile, slot = (torch.full((b, n), -1) for _ in range(3))
        columns = torch.full((len(self.sequences), t), -1)
        qk = torch.full((2, len(self.sequences), HEADS, t, WIDTH), torch.nan)  # QKAttention must not care
        start = [t - len(sequence.columns) for sequence in self.sequences]
        for r, sequence in enumerate(self.sequences):
            columns[r, start[r] :] = torch.tensor(sequence.columns)
            qk[:, r, :, start[r] :] = sequence.qk()
        slots = [x for r, sequence in enumerate(self.sequences) for x in sequence.slots(start[r])]
        for i, picture in enumerate(items):
            k = len(picture)
            features[i, :k], source[i, :k], tile[i, :k], slot[i, :k] = (
                picture.features,
                picture.source,
                picture.tile,
                slots[i],
            )
            if self.poison == "features":
                features[i, :1] = torch.nan
        row = torch.tensor([r for r, s in enumerate(self.sequences) for _ in s.pictures], dtype=torch.long)
        if self.poison == "attention":
            for r, where in zip(row.tolist(), slots, strict=True):
                qk[1, r, :, where[:1]] = torch.nan
        parts: dict[str, Any] = {}
        if needs.cls_layers:
            parts["cls_rows"] = {layer: self._cls(layer, n) for layer in needs.cls_layers}
        if needs.attention is not None:
            parts["attention"] = QKAttention(qk[0], qk[1], columns)
        if needs.text:
            parts["text"], parts["text_length"] = self._text()
        return TokenView.of(
            features.to(self.dtype),
            length=torch.tensor([len(p) for p in items], dtype=torch.long),
            grid=torch.tensor([p.grid for p in items], dtype=torch.long).reshape(b, 3),
            source=source,
            tile=tile,
            entry=torch.tensor([p.entry for p in items], dtype=torch.long),
            layer=self.layer,
            depth=self.depth,
            row=row,
            slot=slot,
            columns=columns,
            key=torch.tensor([p.key for p in items], dtype=torch.long),
            **parts,
        )

    def _cls(self, layer: int, n: int) -> Tensor:
        items = self.pictures
        rows = torch.ones(len(items), HEADS, n)
        for i, picture in enumerate(items):
            rows[i, :, : len(picture)] = picture.rows[layer]
            if self.poison == "cls":
                rows[i, :, :1] = torch.nan
        return rows

    def _text(self) -> tuple[Tensor, Tensor]:
        texts = [sequence.text for sequence in self.sequences for _ in sequence.pictures]
        length = torch.tensor([len(text) for text in texts], dtype=torch.long)
        width = max(map(len, texts), default=0) + self.spare
        padded = 9 * noise(len(texts), width, DIM, seed=self.spare)
        for row, text in zip(padded, texts, strict=True):
            row[: len(text)] = text
            if self.poison == "text":
                row[:1] = torch.nan
        return padded.to(self.dtype), length


def picture(
    grid: tuple[int, int, int] = (1, 3, 4),
    *,
    tiles: bool = False,
    newlines: bool = False,
    dropped: float = 0.0,
    seed: int = 0,
    features: Tensor | None = None,
) -> Picture:
    """A random item.

    Args:
        grid: of its tokens.
        tiles: whether frames are tiles of one picture (a thumbnail and crops).
        newlines: whether a token without a tile ends every row, as in some high-resolution layouts.
        dropped: share of the tokens that a method before this one dropped.
        seed: of everything.
        features: instead of random ones; one for each token.
    """
    t, h, w = grid
    generator = torch.Generator().manual_seed(seed)
    tile = torch.arange(t).repeat_interleave(h * w) if tiles or t > 1 else torch.zeros(h * w).long()
    if newlines:
        tile = torch.cat([tile.reshape(t * h, w), torch.full((t * h, 1), -1)], 1).flatten()
    grid = (1, t, h * w) if tiles else grid
    entry = len(tile)
    source = (torch.rand(entry, generator=generator) >= dropped).nonzero()[:, 0]
    n = len(source)
    rows = torch.rand(DEPTH.encoder, HEADS, n, generator=generator)
    return Picture(
        grid=grid,
        source=source,
        tile=tile[source],
        entry=entry,
        features=torch.randn(n, DIM, generator=generator) if features is None else features,
        rows=rows / (rows.sum(2, keepdim=True) + 0.1),
        key=seed,
    )


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """A picture, a video, tiles, with newlines or not, whole or with tokens gone - even all of them."""
    kind = draw(st.sampled_from(["picture", "video", "tiles"]))
    frames = 1 if kind == "picture" else draw(st.integers(1, 3))
    grid = (frames, draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    return picture(
        grid,
        tiles=kind == "tiles",
        newlines=draw(st.booleans()),
        dropped=draw(st.sampled_from([0.0, 0.0, 0.4, 1.0])),
        seed=draw(seeds),
    )


@st.composite
def scenes(draw: st.DrawFn, layer: int, max_sequences: int = 3) -> Scene:
    """A batch of sequences with one or two pictures each, with more padding than needed."""
    sequences = []
    for _ in range(draw(st.integers(1, max_sequences))):
        sequences.append(
            Sequence(
                pictures=tuple(draw(st.lists(pictures(), min_size=1, max_size=2))),
                before=draw(st.integers(0, 2)),
                after=draw(st.integers(1, 3)),
                seed=draw(seeds),
            )
        )
    return Scene(tuple(sequences), layer, spare=draw(st.integers(0, 2)))
