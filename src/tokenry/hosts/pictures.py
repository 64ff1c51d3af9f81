"""What an encoder delivered: how many tokens each picture became, where they sit, and what is known of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.hosts.crops import tile_numbers
from tokenry.hosts.host import Host
from tokenry.hosts.upstream import (
    NEWLINE,
    PIXELS,
    Tiling,
    encoder_of,
    picture_features,
    picture_grids,
    picture_sizes,
    puts_tiles_together,
    tiling_of,
    whole_comes_first,
)
from tokenry.tokens import UnsupportedError
from tokenry.tokens.view import cells_of

WITHOUT_ENCODER: Final = "Take a method that reads nothing of the encoder; `tk.check(model)` says which run."


Packed = tuple[Tensor, Tensor, int]
"""Tile and cell of every packed token of a picture (-1: newline; empty: interpolated), and its number of tiles."""


@dataclass(eq=False)
class Pictures:
    """The items of one modality that the encoder delivered in one call, in order of appearance.

    Attributes:
        lengths: tokens of each item.
        grid: (frames, height, width) per item; (1, 1, n) where the tokens form no grid.
        key: fingerprint of each item's pixels.
        tile, cell: per item, which tile (frame) a token comes from and which token of the tile it is; -1 for tokens
            of no tile. None where the encoder's tokens cannot be told apart any more (folded or interpolated).
        first: row of the encoder's batch that holds each item's first tile.
        cls: per encoder block, what [CLS] makes of all keys before the softmax, its own first.
        keys: per encoder block, the keys of patches.
        side: tokens along a side of a tile, where tiles are square.
        tiles: per item, (rows, columns) in which its tiles lie; (0, 0) where that is not known.
        sizes: per item, (height, width) in pixels before the processor resized it; (0, 0) where it is not told.
        tiling: how the prompt tells which items make one picture, if they are tiles; None = each is a picture.
        whole_first: whether the whole picture is the first of its tiles, not the last.
        number: per item, its tokens' tiles as methods are shown them: the whole picture is 0. None = as `tile`.
    """

    lengths: list[int]
    grid: Int[Tensor, "items 3"]
    key: Int[Tensor, " items"]
    tile: list[Tensor] | None
    cell: list[Tensor] | None
    first: list[int]
    cls: dict[int, Float[Tensor, "tiles heads k"]] = field(default_factory=dict)
    keys: dict[int, Float[Tensor, "tiles heads n d"]] = field(default_factory=dict)
    side: int | None = None
    tiles: list[tuple[int, int]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    tiling: Tiling | None = None
    whole_first: bool = False
    number: list[Tensor] | None = None

    def numbers(self, item: int) -> Int[Tensor, " n"]:
        """The tile of each token of an item, the only picture or the whole of it being 0."""
        tiles = self.number if self.number is not None else self.tile
        return torch.zeros(self.lengths[item], dtype=torch.long) if tiles is None else tiles[item]

    def joined(self, counts: Sequence[int]) -> Pictures:
        """The same tokens, with so many neighbouring items taken for one picture with its crops each."""
        if max(counts, default=1) == 1:
            return replace(self, tiling=None)
        ends = list(accumulate(counts, initial=0))
        parts = [range(*pair) for pair in pairwise(ends)]
        lengths = [sum(self.lengths[i] for i in part) for part in parts]
        place = [torch.cat([torch.full((self.lengths[i],), k) for k, i in enumerate(part)]) for part in parts]
        tile = None
        if self.tile is not None:
            gone = [torch.cat([self.tile[i] for i in part]) < 0 for part in parts]
            place = [p.to(g.device).masked_fill(g, -1) for p, g in zip(place, gone, strict=True)]
            tile = place
        keys = [sum((2 * k + 1) * self.key[i] for k, i in enumerate(part)) for part in parts]
        grids = [self.grid[part.start : part.stop].unique(dim=0) for part in parts]
        grid = [
            [len(part), *g[0, 1:].tolist()] if len(g) == 1 and int(g[0, 0]) == 1 else [1, 1, n]
            for part, g, n in zip(parts, grids, lengths, strict=True)
        ]
        return replace(
            self,
            lengths=lengths,
            grid=torch.tensor(grid).view(-1, 3),
            key=torch.stack([torch.as_tensor(key) for key in keys]),
            tile=tile,
            cell=None if self.cell is None else [torch.cat([self.cell[i] for i in p]) for p in parts],
            first=[self.first[part.start] for part in parts] if self.first else [],
            tiling=None,
            number=[tile_numbers(p, whole_first=self.whole_first) for p in place],
            tiles=[(1, 1) if len(part) == 1 else (0, 0) for part in parts],
            sizes=[(0, 0)] * len(parts),
        )

    def attention(self, item: int, layer: int) -> Float[Tensor, "heads n"]:
        """[CLS] attention to the tokens of one item; 0 for tokens of no tile."""
        return self._dealt(item, self._of(self.cls, item, layer).softmax(-1)[..., 1:]).T

    def logits(self, item: int, layer: int) -> Float[Tensor, "heads n"]:
        """The same before the softmax."""
        return self._dealt(item, self._of(self.cls, item, layer)[..., 1:]).T

    def encoder_keys(self, item: int, layer: int) -> Float[Tensor, "heads n d"]:
        """Keys of the tokens of one item; zeros for tokens of no tile."""
        keys = self._of(self.keys, item, layer)
        found = self._dealt(item, keys.transpose(2, 3).flatten(1, 2))
        return found.unflatten(1, (keys.shape[1], keys.shape[3])).transpose(0, 1)

    def cells(self, item: int) -> Int[Tensor, "n 2"]:
        """(row, column) of each token of an item in its tile; -1 where it is not known."""
        if self.cell is not None and self.side is not None:
            cell = self.cell[item]
            return torch.stack([cell // self.side, cell % self.side], 1).masked_fill((cell < 0)[:, None], -1)
        n, grid = self.lengths[item], self.grid[item][None]
        if int(grid[0, 1]) == 1:  # no grid
            return torch.full((n, 2), -1)
        return cells_of(grid, torch.arange(n)[None])[0]

    def _of(self, recorded: Mapping[int, Tensor], item: int, layer: int) -> Tensor:
        """What was recorded of an encoder block for the tiles of one item."""
        if self.tile is None or self.cell is None or not self.first or layer not in recorded:
            raise UnsupportedError(
                "This model folds or interpolates the encoder's patches before its language model sees them, so what "
                f"the encoder knows of patches ([CLS] attention, keys) cannot be assigned to tokens. {WITHOUT_ENCODER}"
            )
        first, tile = self.first[item], self.tile[item]
        count = 1 + int(tile.clamp(min=0).max()) if len(tile) else 0
        return recorded[layer][first : first + count]

    def _dealt(self, item: int, values: Float[Tensor, "tiles f patches"]) -> Float[Tensor, "n f"]:
        """Values per patch of an item's tiles for its tokens."""
        assert self.tile is not None
        assert self.cell is not None
        tile, cell = self.tile[item], self.cell[item]
        if len(cell) and int(cell.max()) >= values.shape[2]:
            raise UnsupportedError(
                f"The encoder's blocks hold {values.shape[2]} patches a tile, of which the language model is given "
                f"{int(cell.max()) + 1}: which token is which patch is unknown. {WITHOUT_ENCODER}"
            )
        rows = values[tile.clamp(min=0), :, cell.clamp(min=0)]
        return rows.masked_fill((tile < 0)[:, None], 0.0)


def read_delivery(
    host: Host,
    output: Any,
    call: Mapping[str, Any],
    cls: dict[int, Tensor],
    keys: dict[int, Tensor],
    packed: list[Packed] | None,
) -> Pictures | None:
    """What one call of the encoder delivered; None where it is not said which of it belongs to which picture."""
    pooled = picture_features(output)
    lengths = [len(item) for item in pooled]
    pixels: Any = next(iter(pixels_of(call).values()), None)
    rows = isinstance(pixels, Tensor) and pixels.ndim == 5
    tiling = _tiling(host, call, rows) if packed is None else None
    if rows and tiling is None and len(lengths) == len(pixels) * pixels.shape[1]:
        # Frames delivered one by one make one video.
        lengths = [sum(part) for part in torch.tensor(lengths).view(len(pixels), -1).tolist()]
    grids = picture_grids(call)
    if grids is not None and len(grids) != len(lengths):
        return None  # all pictures in one piece (HunYuan in 5.20): runs of placeholders tell them apart
    sizes = None if packed is not None else picture_sizes(call)
    encoded = getattr(output, "last_hidden_state", None)
    per_tile = _per_tile(lengths, encoded) if packed is None and grids is None and sizes is None else None
    if rows and tiling is not None and len(lengths) == len(pixels) and per_tile is not None:
        # Tiles of a sequence's pictures, all together.
        lengths = [per_tile] * (sum(lengths) // per_tile)
    patches = {part.shape[-1] - 1 for part in cls.values()} | {part.shape[2] for part in keys.values()}
    places = _places(lengths, patches, packed, per_tile)
    device = pooled[0].device if lengths else None
    return Pictures(
        lengths=lengths,
        grid=torch.tensor([_grid(n, i, grids, sizes, per_tile) for i, n in enumerate(lengths)]).view(-1, 3),
        key=_fingerprints(pixels, grids, sizes, len(lengths), tiled=rows and tiling is not None),
        tile=[t.to(device) for t in places[0]] if places else None,
        cell=[t.to(device) for t in places[1]] if places else None,
        first=places[2] if places else [],
        cls=cls,
        keys=keys,
        tiling=tiling,
        whole_first=whole_comes_first(host.model.config),
        side=_side(packed, per_tile, places),
        tiles=[(1, 1)] * len(lengths) if packed is None else [_tile_grid(tile, n) for tile, _, n in packed],
        sizes=[(0, 0)] * len(lengths) if packed is None else _original_sizes(call, len(lengths)),
    )


def pixels_of(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that are pictures as pixels."""
    return {name: inputs[name] for name in PIXELS if inputs.get(name) is not None}


def trace_packing(
    pack: Callable[..., Any], features: Sequence[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Packed]:
    """Send token numbers through the model's own packing of tiles (stitching, unpadding, newlines) to see where each
    token ends up."""
    numbered = [
        torch.arange(1, f.shape[0] * f.shape[1] + 1, dtype=torch.float64).view(f.shape[0], f.shape[1], 1)
        for f in features
    ]
    if kwargs.get(NEWLINE) is not None:
        kwargs = kwargs | {NEWLINE: torch.zeros(1, dtype=torch.float64)}
    out = pack(numbered, *args, **kwargs)
    packed = []
    for f, tokens in zip(features, out[0] if isinstance(out, tuple) else out, strict=True):
        place = tokens[:, 0] - 1
        if bool((place != place.round()).any()):
            place = place[:0]  # interpolated: between the tokens of a tile
        inside = place >= 0
        tile = torch.where(inside, place.long() // f.shape[1], -1)
        packed.append((tile, torch.where(inside, place.long() % f.shape[1], -1), f.shape[0]))
    return packed


def of_tiles(recorded: Mapping[int, list[Tensor]]) -> dict[int, Tensor]:
    """What was recorded of each block, tile after tile; blocks that saw pictures of several sizes are left out."""
    return {
        layer: torch.cat(parts)
        for layer, parts in recorded.items()
        if len({part.shape[1:] for part in parts}) == 1
    }


def _side(packed: list[Packed] | None, per_tile: int | None, places: Any) -> int | None:
    """Tokens along a side of a tile, where tiles are known and square."""
    if places is None or (packed is None and per_tile is None):
        return None
    cells = 1 + max((int(cell.max()) for cell in places[1] if len(cell)), default=-1)
    side = math.isqrt(max(cells, 0))
    return side if side and side * side == cells else None


def _tile_grid(tile: Int[Tensor, " n"], count: int) -> tuple[int, int]:
    """(rows, columns) of a picture's tiles as they were packed: lines of tokens that end with a newline."""
    if count == 1:
        return 1, 1
    crops = tile[int((tile > 0).long().argmax()) :] if len(tile) else tile
    line = crops[: int((crops < 0).long().argmax())]
    columns = len(line.unique())
    return ((count - 1) // columns, columns) if columns and (count - 1) % columns == 0 else (0, 0)


def _original_sizes(call: Mapping[str, Any], items: int) -> list[tuple[int, int]]:
    """(height, width) in pixels that the processor says pictures had."""
    sizes = picture_sizes(call)
    if sizes is None or len(sizes) != items:
        return [(0, 0)] * items
    return [(int(height), int(width)) for height, width in sizes]


def _tiling(host: Host, call: Mapping[str, Any], rows: bool) -> Tiling | None:
    """How the prompt tells which of the delivered things make one picture; None where each is one."""
    encode = encoder_of(host.base, "image")
    if encode is None or PIXELS[0] not in call or puts_tiles_together(encode):
        return None
    tiling = tiling_of(str(host.model.config.model_type))
    return Tiling.AROUND if rows and tiling is not None else tiling


def _per_tile(lengths: list[int], encoded: Tensor | None) -> int | None:
    """Tokens that every tile (frame) became, if the encoder took pictures apart into rows of equal length."""
    if encoded is None or encoded.ndim != 3 or not lengths or sum(lengths) % len(encoded):
        return None
    per_tile = sum(lengths) // len(encoded)
    return per_tile if per_tile and not any(n % per_tile for n in lengths) else None


def _places(
    lengths: list[int], patches: set[int], packed: list[Packed] | None, per_tile: int | None
) -> tuple[list[Tensor], list[Tensor], list[int]] | None:
    """Tile and cell of every token of every item, and the encoder row of each item's first tile; None where a token
    of the language model is no single patch of the encoder."""
    if packed is not None:
        if [len(tile) for tile, _, _ in packed] != lengths:
            return None
        counts = [count for _, _, count in packed]
        first = [sum(counts[:i]) for i in range(len(counts))]
        return [tile for tile, _, _ in packed], [cell for _, cell, _ in packed], first
    if per_tile is None:
        return ([torch.zeros(n, dtype=torch.long) for n in lengths], [torch.arange(n) for n in lengths], [])
    index = [torch.arange(n) for n in lengths]
    first = [sum(lengths[:i]) // per_tile for i in range(len(lengths))]
    tile, cell = [i // per_tile for i in index], [i % per_tile for i in index]
    if patches:  # of a tile, in the blocks that were recorded
        extra = {per_tile - each for each in patches}
        if extra not in ({0}, {1}):
            return None
        if extra == {1}:  # [CLS] itself is handed to the language model, first of its tile
            tile = [t.masked_fill(c == 0, -1) for t, c in zip(tile, cell, strict=True)]
            cell = [c - 1 for c in cell]
    return tile, cell, first


def _grid(
    n: int, item: int, grids: Tensor | None, sizes: Tensor | None, per_tile: int | None
) -> tuple[int, int, int]:
    """(frames or tiles, height, width) of one item's tokens, (1, 1, n) if they form no grid."""
    if grids is not None or sizes is not None:
        t, h, w = (int(v) for v in grids[item]) if grids is not None else (1, *map(int, sizes[item]))  # type: ignore[index]
        fold = math.isqrt(max(1, t * h * w // max(n, 1)))
        return (t, h // fold, w // fold) if t * (h // fold) * (w // fold) == n else (1, 1, n)
    side = math.isqrt(per_tile or 0)
    return (n // per_tile, side, side) if per_tile and side * side == per_tile else (1, 1, n)


def _fingerprints(
    pixels: Any, grids: Tensor | None, sizes: Tensor | None, items: int, *, tiled: bool
) -> Int[Tensor, " items"]:
    """A 64-bit number per item that depends on its own pixels only; 0 where pixels cannot be told apart by item."""
    if not isinstance(pixels, Tensor):
        return torch.zeros(items, dtype=torch.long)
    if grids is not None:
        parts = list(pixels.split(grids.prod(-1).tolist()))
    else:
        flat = pixels if len(pixels) == items or pixels.ndim <= 4 else pixels.flatten(0, 1)
        if tiled:  # sequences with fewer tiles are filled up with black ones
            flat = pixels.flatten(0, 1)
            flat = flat[flat.flatten(1).ne(0).any(1)] if len(flat) != items else flat
        parts = list(flat) if len(flat) == items else []
    if len(parts) != items:
        return torch.zeros(items, dtype=torch.long)
    if sizes is not None:  # the batch is padded to its largest picture
        parts = [part[..., : int(h), : int(w)] for part, (h, w) in zip(parts, sizes, strict=True)]
    numbers = []
    for part in parts:
        bits = part.detach().float().cpu().contiguous().view(torch.int32).flatten().long()
        # Odd weights make the order of pixels count; int64 wraps around, which is as good as modulo 2^64.
        numbers.append((bits * (2 * torch.arange(len(bits)) + 1)).sum())
    return torch.stack(numbers) if numbers else torch.zeros(0, dtype=torch.long)
