"""The pictures in a batch of sequences: which columns are whose, and what a method is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.hosts.crops import Placed, pictures_of
from tokenry.hosts.vision import Pictures
from tokenry.tokens import (
    AttentionView,
    DenseReduction,
    Depth,
    Reduction,
    TokenView,
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
        tile: which tile it comes from.
        entry: tokens the item had when the method in charge first met it.
        grid, key: see `TokenView`.
        pictures: for each item, its record and its number in it.
    """

    row: Int[Tensor, " items"]
    columns: Int[Tensor, "items n"]
    length: Int[Tensor, " items"]
    source: Int[Tensor, "items n"]
    tile: Int[Tensor, "items n"]
    entry: Int[Tensor, " items"]
    grid: Int[Tensor, "items 3"]
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
        tiles = [
            p.numbers(i).to(device) if p is not None else torch.zeros_like(c)
            for _, c, picture in found
            for p, i in [picture or (None, 0)]
        ]
        length = torch.tensor(lengths, dtype=torch.long, device=device)
        index = torch.arange(n, device=device).expand(len(found), n)
        grid = [
            p.grid[i].tolist() if p else (1, 1, ln)
            for (_, _, pic), ln in zip(found, lengths, strict=True)
            for p, i in [pic or (None, 0)]
        ]
        key = [int(p.key[i]) if p else 0 for _, _, pic in found for p, i in [pic or (None, 0)]]
        empty = torch.zeros(0, n, dtype=torch.long, device=device)
        return cls(
            row=torch.tensor([row for row, _, _ in found], dtype=torch.long, device=device),
            columns=torch.stack(columns) if found else empty,
            length=length,
            source=index.masked_fill(index >= length[:, None], -1),
            tile=torch.stack([pad(t, (0, n - len(t)), value=-1) for t in tiles]) if found else empty,
            entry=length,
            grid=torch.tensor(grid, dtype=torch.long, device=device).view(-1, 3),
            key=torch.tensor(key, dtype=torch.long, device=device),
            pictures=tuple(picture for _, _, picture in found),
        )

    def __len__(self) -> int:
        return len(self.row)

    def after(self, reduction: Reduction | DenseReduction) -> Items:
        """The items that a reduction leaves: each output stands where its anchor stood."""

        def follow(values: Tensor) -> Tensor:
            return values.gather(1, reduction.anchor.clamp(min=0)).masked_fill(reduction.anchor < 0, -1)

        return replace(
            self,
            columns=follow(self.columns),
            source=follow(self.source),
            tile=follow(self.tile),
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

        def cls(encoder_layer: int) -> Tensor:
            rows = []
            for item, picture in enumerate(self.pictures):
                if picture is None:
                    raise UnsupportedError(
                        "These pictures were encoded outside tokenry, without their [CLS] rows."
                    )
                record, number = picture
                row = record.attention(number, encoder_layer).to(features.device)
                rows.append(gather_rows(row.T[None], self.source[item][None])[0].T)
            return torch.stack(rows)

        return TokenView(
            features=features,
            length=self.length,
            grid=self.grid,
            source=self.source,
            tile=self.tile,
            entry=self.entry,
            layer=layer,
            depth=depth,
            row=self.row,
            slot=slot,
            columns=columns,
            key=self.key,
            text=text[0] if text else None,
            text_length=text[1] if text else None,
            _attention=attention,
            _cls=cls,
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
