"""Picture files as RGB, the way viewers show them: upright, on white, with all of their shades."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageCms, ImageOps

from tokenry.tokens.errors import InputError

_BROKEN: Final = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)  # what Pillow raises on files that are no pictures, or not whole ones
_WHITE: Final = (255, 255, 255, 255)
_SAMPLE: Final = 1 << 16
"""Bytes at either end of a file that tell it from others of the same length."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture by name, read when it is asked for: thousands of them are a list of names.

    Attributes:
        name: stable; questions about one picture share it.
        source: the picture, or the file that it is in.
    """

    name: str
    source: Image.Image | Path

    def open(self) -> Image.Image:
        """The picture as RGB, as viewers show it (`as_shown`).

        Raises:
            InputError: no such file, or not a complete picture.
        """
        return as_shown(self.source) if isinstance(self.source, Image.Image) else open_picture(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """A hash that tells this picture from others, without decoding a file: its length and both of its ends.

        A file that cannot be read has one, too: the error belongs to the question that needs it.
        """
        found = hashlib.sha256()
        if isinstance(self.source, Image.Image):
            image = as_shown(self.source)
            found.update(repr(image.size).encode() + image.tobytes())
        else:
            try:
                size = self.source.stat().st_size
                with self.source.open("rb") as file:
                    found.update(f"{size} ".encode() + file.read(_SAMPLE))
                    file.seek(max(0, size - _SAMPLE))
                    found.update(file.read(_SAMPLE))
            except (OSError, ValueError):  # a name with NUL in it is a ValueError
                found.update(b"unreadable")
        return found.hexdigest()[:20]


def open_picture(path: str | Path) -> Image.Image:
    """Read a picture file, of an animation the first frame that is shown.

    Raises:
        InputError: no such file, or not a complete picture.
    """
    try:
        with Image.open(path) as image:
            # What stands first in such an animated PNG is for viewers that show no animations.
            if getattr(image, "default_image", False):
                image.seek(1)
            return as_shown(image)
    except _BROKEN as error:
        raise InputError(f"Cannot read the picture {str(path)!r}: {error}.") from error


def as_shown(image: Image.Image) -> Image.Image:
    """A picture as RGB, as viewers show it.

    It is turned as its EXIF orientation says; what is see-through lies on white; 16 bits are scaled to 8, not clipped;
    print colours (CMYK) go through the picture's own profile if it has one. An upright RGB picture stays what it is.
    """
    image.load()  # a PNG's EXIF may stand behind its pixels
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "CMYK":
        image = _from_print(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its own scale; wider numbers, which have none, from their smallest to their largest."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, posinf=values[np.isfinite(values)].max(initial=0.0))
    low, high = 0.0, 65535.0
    if image.mode == "F" or values.min() < low or values.max() > high:
        low, high = float(values.min()), float(values.max())
    grey = Image.fromarray(np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8))
    if isinstance(clear := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _from_print(image: Image.Image) -> Image.Image:
    """Ink amounts mean colours only with the profile of the press; without one, Pillow's rule of thumb."""
    if not (profile := image.info.get("icc_profile")):
        return image
    try:
        screen = ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(
            image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), screen, outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return image  # a broken profile
    return image if found is None else found
