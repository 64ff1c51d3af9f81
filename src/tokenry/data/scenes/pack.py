"""The picture pack that ships with tokenry: small pictures with names in sixteen languages, and letters for signs.

The pictures are Noto Color Emoji (SIL Open Font License 1.1), their names come from the Unicode CLDR (Unicode licence)
and the letters from DejaVu (Bitstream Vera licence); the licence texts lie beside the pack. ``recipes/emoji_pack.py``
rebuilds it from Debian packages.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tokenry.tokens.errors import TokenryError

_ASSETS = files("tokenry.data") / "assets"
_FORMAT = 1


@dataclass(frozen=True)
class PackObject:
    """One picture of the pack.

    Attributes:
        key: stable identifier, the English name with underscores.
        emoji: the Unicode character.
        group: what kind of thing it is: animal, food, vehicle, tool, clothing, instrument, plant or sport.
        colour: its colour where people would agree on one, else None.
        names: language code -> name; ``en`` is always there, unique and at most two words.
    """

    key: str
    emoji: str
    group: str
    colour: str | None
    names: Mapping[str, str]

    @property
    def name(self) -> str:
        """The English name."""
        return self.names["en"]


@dataclass(frozen=True)
class Pack:
    """Pictures, names and letters, ready to be composed.

    Attributes:
        objects: one entry a picture, in sheet order.
        sprites: RGBA pictures with straight alpha.
        glyphs: coverage (0..255) of the capitals A-Z, one row a font.
        languages: languages in which every object has a name.
    """

    objects: tuple[PackObject, ...]
    sprites: UInt8[np.ndarray, "objects side side 4"]
    glyphs: UInt8[np.ndarray, "fonts 26 height width"]
    languages: tuple[str, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that occur, in order of first appearance."""
        return tuple(dict.fromkeys(item.group for item in self.objects))

    def index(self, name: str) -> int:
        """Position of the object with this key or English name.

        Raises:
            TokenryError: if the pack has no such object.
        """
        for position, item in enumerate(self.objects):
            if name in (item.key, item.name):
                return position
        raise TokenryError(
            f"The picture pack has no object {name!r}; load_pack().objects lists the {len(self.objects)}"
        )


def _image(name: str, mode: str) -> np.ndarray:
    with (_ASSETS / name).open("rb") as stream, Image.open(stream) as image:
        return np.asarray(image.convert(mode))


@cache
def load_pack() -> Pack:
    """Read the pack from the installed package. The result is shared: its arrays are read-only.

    Raises:
        TokenryError: if the installed pack has another format than this version reads.
    """
    manifest = json.loads((_ASSETS / "pack.json").read_text(encoding="utf-8"))
    if manifest["format"] != _FORMAT:
        raise TokenryError(
            f"The picture pack has format {manifest['format']}, this version reads {_FORMAT}: reinstall tokenry."
        )
    objects = tuple(
        PackObject(**(entry | {"names": MappingProxyType(entry["names"])})) for entry in manifest["objects"]
    )
    side, columns = manifest["sprite"]["size"], manifest["sprite"]["columns"]
    sheet = _image(manifest["sprite"]["file"], "RGBA")
    tiles = (
        sheet.reshape(sheet.shape[0] // side, side, columns, side, 4)
        .swapaxes(1, 2)
        .reshape(-1, side, side, 4)
    )
    sprites = np.ascontiguousarray(tiles[: len(objects)])

    height, width = manifest["glyphs"]["height"], manifest["glyphs"]["width"]
    letters = _image(manifest["glyphs"]["file"], "L")
    glyphs = letters.reshape(letters.shape[0] // height, height, 26, width).swapaxes(1, 2).copy()
    for array in (sprites, glyphs):
        array.flags.writeable = False
    return Pack(objects, sprites, glyphs, tuple(manifest["languages"]))
