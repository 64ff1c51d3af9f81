"""Features of frozen towers, kept on disk: a tower that does not learn sees each picture once.

A training on top of it (heads, a projector with a language model behind it) then reads features where it would encode
pictures, which costs most of the time otherwise. They are kept in half precision, shard by shard, so that a run that
was killed goes on with the shard that is missing; each has a checksum, and one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from PIL import Image
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tokenry.data.packages import cache_folder
from tokenry.hosts.wrappers import device_of, fingerprint
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_file
from tokenry.train.resuming import claim

SHARD: Final = 64
"""Pictures whose features are in one file: what a killed run loses of its work, at most."""
_AT_ONCE: Final = 16
"""Pictures that a tower encodes in one pass."""
_NOTE: Final = "features.json"


@dataclass(frozen=True, eq=False)
class FrozenTower:
    """An encoder of pictures that does not learn.

    Attributes:
        model: transformers' model of pictures alone: what `tk.load` gives, or the tower of a vision-language model.
        processor: its image processor.
        layer: whose output is taken, as `hidden_states` counts (0 is before the first block); by default the last
            one's, with the norm behind it.
        side: pixels of a side that pictures are brought to, instead of what the processor says.
    """

    model: nn.Module
    processor: Any
    layer: int | None = None
    side: int | None = None

    def pixels(self, images: Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
        """Pictures as the model reads them."""
        size = {} if self.side is None else {"size": {"height": self.side, "width": self.side}}
        pixels: Tensor = self.processor(images=list(images), return_tensors="pt", **size).pixel_values
        return pixels.to(device_of(self.model))

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Float[Tensor, "b n d"]:
        """Features of pictures, those of [CLS] first where the model has it."""
        output = self.model(pixel_values=self.pixels(images), output_hidden_states=self.layer is not None)
        features: Tensor = (
            output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        )
        return features

    def identity(self) -> dict[str, Any]:
        """What its features depend on, as JSON values."""
        return {
            "tower": fingerprint(self.model),
            "processor": hashlib.sha256(self.processor.to_json_string().encode()).hexdigest()[:16],
            "layer": self.layer,
            "side": self.side,
        }


@dataclass(frozen=True, eq=False)
class PictureSeries:
    """Pictures by number, the same every time they are asked for.

    Attributes:
        name: of the series, as folders are called.
        count: of pictures.
        picture: gives the one of a number.
        source: what tells the series from others, as JSON values: split, seed and style of scenes, names of files.
    """

    name: str
    count: int
    picture: Callable[[int], Image.Image]
    source: Mapping[str, Any]


class FeatureCache:
    """Features that a frozen tower gives of a series of pictures, kept on disk.

    Args:
        tower: what encodes.
        pictures: what is encoded. A series that has become longer keeps what was made of its beginning.
        folder: where to keep them; by default a folder of the cache that belongs to this tower and series alone.

    Raises:
        InputError: the folder holds features of another tower, layer or series, or cannot be written.
    """

    def __init__(self, tower: FrozenTower, pictures: PictureSeries, folder: Path | None = None) -> None:
        self.tower, self.pictures = tower, pictures
        identity = tower.identity() | {"pictures": dict(pictures.source), "shard": SHARD}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder or cache_folder() / "features" / f"{pictures.name}-{digest}"
        self._opened: dict[int, Any] = {}
        claim(self.folder / _NOTE, identity)

    def __len__(self) -> int:
        return self.pictures.count

    def fill(self, console: Console | None = None) -> FeatureCache:
        """Make what is missing or damaged; everything that is there afterwards has been checked.

        Args:
            console: where progress is shown; stderr by default.

        Raises:
            InputError: a picture cannot be read, features do not fit half precision, or a file cannot be written.
        """
        missing = [number for number in range(-(-len(self) // SHARD)) if self._damage(number)]
        told = console or Console(stderr=True)
        for number in track(missing, f"features of {self.pictures.name}", console=told, disable=not missing):
            self._make(number)
        return self

    def __getitem__(self, index: Int[Tensor, " i"]) -> Float[Tensor, "i n d"]:
        """Features of the pictures of these numbers, in half precision.

        Raises:
            InputError: there is no such picture, or its features are not there or damaged: `fill` makes them.
        """
        rows = []
        for which in index.tolist():
            if not 0 <= which < len(self):
                raise InputError(
                    f"There is no picture {which} among the {len(self)} of {self.pictures.name}."
                )
            number, row = divmod(which, SHARD)
            if number not in self._opened and (damage := self._damage(number)):
                raise InputError(f"{damage} Call `fill()` first, which makes them again.")
            rows.append(self._opened[number][row : row + 1])
        return torch.cat(rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}  # a worker process opens the files itself

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.safetensors"

    def _expected(self, number: int) -> range:
        """The pictures of a shard."""
        return range(number * SHARD, min((number + 1) * SHARD, len(self)))

    def _damage(self, number: int) -> str | None:
        """What is wrong with a shard; it is open afterwards if nothing is."""
        file = self._file(number)
        try:
            with safe_open(file, "pt") as opened:
                told, features = (opened.metadata() or {}).get("sha256"), opened.get_tensor("features")
        except (OSError, SafetensorError) as error:
            return f"Features in {file} cannot be read: {error}."
        if len(features) < len(self._expected(number)):
            return f"Features in {file} are of {len(features)} pictures, not {len(self._expected(number))}."
        if _digest(features) != told:
            return f"Features in {file} are damaged: their checksum is another."
        # Read row by row from here on: thousands of pictures need not fit into memory.
        self._opened[number] = safe_open(file, "pt").get_slice("features")
        return None

    def _make(self, number: int) -> None:
        expected = self._expected(number)
        parts = []
        for first in range(expected.start, expected.stop, _AT_ONCE):
            batch = range(first, min(first + _AT_ONCE, expected.stop))
            parts.append(self.tower([self.pictures.picture(i) for i in batch]).to("cpu", torch.float16))
        features = torch.cat(parts)
        if not features.isfinite().all():
            raise InputError(
                f"Features of {self.pictures.name} do not fit half precision: take those of another layer "
                f"({self.tower.layer} now), or the last one's with the norm behind it."
            )
        with whole_file(self._file(number)) as scratch:
            save_file({"features": features}, scratch, {"sha256": _digest(features)})
        if damage := self._damage(number):
            raise InputError(f"{damage} It has just been written: the disk is full or damaged.")


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
