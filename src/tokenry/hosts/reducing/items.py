"""The pictures in a batch of sequences: which columns are whose, and what a method is shown of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenry.hosts.crops import Placed, pictures_of
from tokenry.hosts.pictures import Pictures
from tokenry.tokens import (
    AttentionView,
    DenseReduction,
    Depth,
    EncoderView,
    Reduction,
    TokenView,
    Tower,
    UnsupportedError,
    gather_rows,
)


@dataclass(frozen=True, eq=False)
class Items:
    """A batch of items (pictures, crop groups, video segments) as they are at one point of the decoder.

    Attributes:
        row: the sequence each item belongs to.
        columns: the columns of its tokens in the full sequence; -1 = padding.
        length: its tokens.
        source: each token's index in the item as the encoder delivered it.
        tile, cell: which tile it comes from, and its (row, column) there.
        size: tokens of the encoder's that it stands for.
        entry: tokens the item had when the method in charge first met it.
        grid, tiles, image_size, key: see `TokenView`.
        pictures: for each item, its record and its number in it.
    """

    row: Int[Tensor, " items"]
    columns: Int[Tensor, "items n"]
    length: Int[Tensor, " items"]
    source: Int[Tensor, "items n"]
    tile: Int[Tensor, "items n"]
    cell: Int[Tensor, "items n 2"]
    size: Float[Tensor, "items n"]
    entry: Int[Tensor, " items"]
    grid: Int[Tensor, "items 3"]
    tiles: Int[Tensor, "items 2"]
    image_size: Int[Tensor, "items 2"]
    key: Int[Tensor, " items"]
    pictures: tuple[tuple[Pictures, int] | None, ...]

    @classmethod
    def find(
        cls,
        kinds: Mapping[str, Bool[Tensor, "b t"]],
        pictures: Mapping[str, Pictures],
        ids: Int[Tensor, "b t"] | None = None,
        crops: Sequence[int] | None = None,
    ) -> Items:
        """Cut the visual columns of a batch into items.

        Args:
            kinds: visual columns by modality.
            pictures: what the encoders delivered, by modality. A modality without a record (pictures encoded outside,
                marked spans of a text model) is cut into runs of neighbouring columns.
            ids: the tokens, whose marks tell which tiles make one picture.
            crops: how many tiles each picture has, where the user says so.
        """
        found: list[tuple[int, Tensor, tuple[Pictures, int] | None]] = []
        for modality, visual in kinds.items():
            if modality in pictures:
                told = crops if modality == "image" else None
                found += _by_record(visual, pictures[modality], ids, told)
            else:
                found += [(row, columns, None) for row, columns in _runs(visual)]
        found.sort(key=lambda f: (f[0], int(f[1][0])))
        device = next(iter(kinds.values())).device
        lengths = [len(columns) for _, columns, _ in found]
        n = max(lengths, default=0)
        pad = torch.nn.functional.pad
        columns = [pad(c, (0, n - len(c)), value=-1) for _, c, _ in found]
        known = [_told(picture, len(c), device) for _, c, picture in found]
        length = torch.tensor(lengths, dtype=torch.long, device=device)
        index = torch.arange(n, device=device).expand(len(found), n)
        empty = torch.zeros(0, n, dtype=torch.long, device=device)

        def numbers(values: list[Any], *shape: int) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device).view(len(found), *shape)

        return cls(
            row=numbers([row for row, _, _ in found]),
            columns=torch.stack(columns) if found else empty,
            length=length,
            source=index.masked_fill(index >= length[:, None], -1),
            tile=pad_sequence([item.tile for item in known], True, -1) if found else empty,
            cell=pad_sequence([item.cell for item in known], True, -1)
            if found
            else empty[..., None].expand(0, n, 2),
            size=(index < length[:, None]).float(),
            entry=length,
            grid=numbers([item.grid for item in known], 3),
            tiles=numbers([item.tiles for item in known], 2),
            image_size=numbers([item.image_size for item in known], 2),
            key=numbers([item.key for item in known]),
            pictures=tuple(picture for _, _, picture in found),
        )

    def __len__(self) -> int:
        return len(self.row)

    def after(self, reduction: Reduction | DenseReduction) -> Items:
        """The items that a reduction leaves: each output stands where its anchor stood."""

        def follow(values: Tensor) -> Tensor:
            anchor = reduction.anchor.view(*reduction.anchor.shape, *[1] * (values.ndim - 2))
            index = anchor.clamp(min=0).expand(*reduction.anchor.shape, *values.shape[2:])
            return values.gather(1, index).masked_fill(anchor < 0, -1)

        return replace(
            self,
            columns=follow(self.columns),
            source=follow(self.source),
            tile=follow(self.tile),
            cell=follow(self.cell),
            size=reduction.carry(self.size),
            length=reduction.count,
        )

    def view(
        self,
        features: Float[Tensor, "items n d"],
        slot: Int[Tensor, "items n"],
        columns: Int[Tensor, "rows t"],
        layer: int,
        depth: Depth,
        attention: AttentionView | None,
        text: tuple[Tensor, Tensor] | None,
    ) -> TokenView:
        """What a method is shown of these items."""
        return TokenView(
            features=features,
            length=self.length,
            grid=self.grid,
            source=self.source,
            tile=self.tile,
            cell=self.cell,
            tiles=self.tiles,
            image_size=self.image_size,
            size=self.size,
            protected=torch.zeros_like(self.source, dtype=torch.bool),
            entry=self.entry,
            tower=Tower.DECODER,
            layer=layer,
            depth=depth,
            row=self.row,
            slot=slot,
            columns=columns,
            key=self.key,
            text=text[0] if text else None,
            text_length=text[1] if text else None,
            _attention=attention,
            encoder=_EncoderRecord(self.pictures, self.source, features.device),
        )


@dataclass(frozen=True, eq=False)
class _EncoderRecord(EncoderView):
    """What was recorded of the encoder, for the tokens of items.

    Attributes:
        pictures: for each item, its record and its number in it.
        source: each token's index in its item as the encoder delivered it; -1 = padding.
        device: of what is shown.
    """

    pictures: tuple[tuple[Pictures, int] | None, ...]
    source: Int[Tensor, "items n"]
    device: torch.device

    def cls_attention(self, layer: int) -> Float[Tensor, "items heads n"]:
        return self._of_items(lambda record, item: record.attention(item, layer).T).mT

    def cls_logits(self, layer: int) -> Float[Tensor, "items heads n"]:
        return self._of_items(lambda record, item: record.logits(item, layer).T).mT

    def keys(self, layer: int) -> Float[Tensor, "items heads n d"]:
        shapes: list[tuple[int, int]] = []

        def flat(record: Pictures, item: int) -> Float[Tensor, "n f"]:
            keys = record.encoder_keys(item, layer)
            shapes.append((keys.shape[0], keys.shape[2]))
            return keys.transpose(0, 1).flatten(1)

        keys = self._of_items(flat)
        return keys.unflatten(2, shapes[0]).transpose(1, 2)

    def _of_items(self, of: Callable[[Pictures, int], Tensor]) -> Float[Tensor, "items n f"]:
        rows = []
        for picture, source in zip(self.pictures, self.source, strict=True):
            if picture is None:
                raise UnsupportedError(
                    "These pictures were encoded outside tokenry, without a record of their encoder."
                )
            rows.append(gather_rows(of(*picture).to(self.device)[None], source[None])[0])
        return torch.stack(rows)


@dataclass(frozen=True, eq=False)
class _Told:
    """What is known of one item."""

    tile: Int[Tensor, " n"]
    cell: Int[Tensor, "n 2"]
    grid: tuple[int, int, int]
    tiles: tuple[int, int]
    image_size: tuple[int, int]
    key: int


def _told(picture: tuple[Pictures, int] | None, n: int, device: torch.device) -> _Told:
    if picture is None:
        line = torch.zeros(n, dtype=torch.long, device=device)
        return _Told(line, torch.full((n, 2), -1, device=device), (1, 1, n), (0, 0), (0, 0), 0)
    record, i = picture
    frames, height, width = record.grid[i].tolist()
    return _Told(
        tile=record.numbers(i).to(device),
        cell=record.cells(i).to(device),
        grid=(frames, height, width),
        tiles=record.tiles[i],
        image_size=record.sizes[i],
        key=int(record.key[i]),
    )


def _runs(visual: Bool[Tensor, "b t"]) -> list[tuple[int, Int[Tensor, " n"]]]:
    """Runs of neighbouring visual columns, row by row."""
    runs = []
    for row, mask in enumerate(visual):
        columns = mask.nonzero()[:, 0]
        if len(columns):
            breaks = (columns.diff() > 1).nonzero()[:, 0] + 1
            runs += [(row, run) for run in columns.tensor_split(breaks.cpu())]
    return runs


def _by_record(
    visual: Bool[Tensor, "b t"],
    record: Pictures,
    ids: Int[Tensor, "b t"] | None = None,
    crops: Sequence[int] | None = None,
) -> list[tuple[int, Int[Tensor, " n"], tuple[Pictures, int]]]:
    """Deal the delivered items out to the rows, in order, and take tiles together that make one picture; rows expanded
    for beams or samples share theirs."""
    dealt = _dealt(visual, record)
    if not all(record.lengths) or (crops is None and (record.tiling is None or ids is None)):
        return dealt
    numbers = list(dict.fromkeys(i for _, _, (_, i) in dealt))
    once = {i: (row, columns) for row, columns, (_, i) in reversed(dealt)}
    placed = [
        (row, Placed(int(columns[0]), int(columns[-1]) + 1)) for row, columns in (once[i] for i in numbers)
    ]
    rows = [[] for _ in visual] if ids is None else ids.tolist()
    counts = pictures_of(None if ids is None else record.tiling, rows, placed, crops)
    return _dealt(visual, record.joined(counts))


def _dealt(
    visual: Bool[Tensor, "b t"], record: Pictures
) -> list[tuple[int, Int[Tensor, " n"], tuple[Pictures, int]]]:
    """The delivered items dealt out to the rows, in order."""
    counts = visual.sum(1).tolist()
    total = sum(record.lengths)
    copies = sum(counts) // total if total else 0
    if not copies or copies * total != sum(counts) or len(counts) % copies:
        raise UnsupportedError(
            f"The sequences hold {sum(counts)} visual tokens where the encoder delivered {total}: a picture is spread "
            "over several calls (chunked prefill), or its record is from another call. Give the whole prompt and all "
            "its pictures in one call."
        )
    found, item = [], 0
    for first in range(0, len(counts), copies):
        start, begun = item, 0
        while begun < counts[first]:
            begun += record.lengths[item]
            item += 1
        if begun != counts[first]:
            raise UnsupportedError("A picture's tokens are spread over two sequences of the batch.")
        for row in range(first, first + copies):
            columns = visual[row].nonzero()[:, 0].split(record.lengths[start:item])
            found += [(row, c, (record, start + i)) for i, c in enumerate(columns) if len(c)]
    return found
