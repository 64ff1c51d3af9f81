"""Picture files as RGB, the way viewers show them: upright, on white, with all of their shades."""

from __future__ import annotations

import io
import struct
import zlib
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
