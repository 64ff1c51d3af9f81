"""Picture files as RGB, the way viewers show them: upright, on white, with all of their shades."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tokenry.tokens.errors import InputError, ItemError, gist

_NO_PICTURES: Final[Mapping[bytes, str]] = MappingProxyType(
    {
        rb".{4}ftyp(?:hei|hev|mif1|msf1)": "HEIC is not read; convert it to JPEG or PNG",
        rb".{4}ftypavi": "AVIF is not read by this Pillow; convert it to JPEG or PNG",
        rb".{4}ftyp": "it is a film, not a picture",
        rb"%PDF": "PDF is not read; save each page as a PNG",
        rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript is not read; convert it to PNG",
        rb"(?:\xef\xbb\xbf)?\s*(?:(?:<\?xml|<!--|<!doctype\s+svg).*)?<svg": "SVG is not read; convert it to PNG",
        rb"version https://git-lfs": "it is a pointer of Git LFS; fetch the picture with: git lfs pull",
        rb"\s*<(?:!doctype\s+html|html)": "it is a web page, as downloads that failed leave it",
    }
)  # fmt: skip
"""What files called pictures are when they are none, by how they begin."""
_TURNS: Final = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
"""What makes a picture upright, by the orientation in its EXIF."""
_NOTES: Final = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Where Pillow keeps what says how a picture stands."""
_ADDRESS: Final = re.compile(r"(?:[a-z][a-z0-9+.-]+://|data:)", re.IGNORECASE)
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
        if not isinstance(self.source, Image.Image):
            return open_picture(self.source)
        try:
            return as_shown(self.source)
        except Exception as error:  # as in `open_picture`: Pillow reads what it has opened when it is needed
            raise InputError(f"Cannot read the picture {self.name!r}: {_reason(error)}.") from error

    @cached_property
    def fingerprint(self) -> str:
        """A hash that tells this picture from others, without decoding a file: its length and both of its ends.

        A picture that cannot be read has one, too: the error belongs to the question that needs it.
        """
        found = hashlib.sha256()
        if isinstance(self.source, Image.Image):
            try:
                image = as_shown(self.source)
                found.update(repr(image.size).encode() + image.tobytes())
            except Exception:  # as in `open`
                found.update(b"unreadable")
        else:
            try:
                status = self.source.stat()
                if not stat.S_ISREG(status.st_mode):
                    raise OSError("no file")  # opening a pipe waits for somebody to write into it
                size = status.st_size
                with self.source.open("rb") as file:
                    found.update(f"{size} ".encode() + file.read(_SAMPLE))
                    file.seek(max(0, size - _SAMPLE))
                    found.update(file.read(_SAMPLE))
            except (OSError, ValueError):  # a name with NUL in it is a ValueError
                found.update(b"unreadable")
        return found.hexdigest()[:20]


class PictureFolder:
    """Pictures of a folder by the names that a file of questions gives them: checked, and not opened.

    Attributes:
        folder: where they are; nothing outside of it is one of them, whatever a name or a link says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.path.realpath(folder)
        self._known: dict[str, Picture | InputError] = {}
        self._parents: dict[str, str] = {}

    def picture(self, name: str) -> Picture:
        """The picture of a name, the same one every time.

        Raises:
            InputError: no file inside the folder, or an empty one.
        """
        if name not in self._known:
            try:
                self._known[name] = Picture(shown(name), self._checked(name))
            except InputError as error:
                self._known[name] = error
        found = self._known[name]
        if isinstance(found, InputError):
            raise ItemError(str(found))
        return found

    def strays(self) -> list[str]:
        """Names of pictures in the folder that nobody asked for."""
        used = {os.path.abspath(path) for name in self._known for path in self._paths(name)}
        endings = Image.registered_extensions()
        return sorted(
            name
            for name in os.listdir(self.folder)
            if os.path.splitext(name)[1].lower() in endings
            and not name.startswith(".")
            and os.path.abspath(os.path.join(self.folder, name)) not in used
        )

    def _paths(self, name: str) -> list[str]:
        """Where a picture of that name may be."""
        return [os.path.join(self.folder, one) for one in _spellings(name)]

    def _checked(self, name: str) -> Path:
        """What is cheap to know and certain; whether a file is a picture shows when it is opened."""
        if _ADDRESS.match(name):
            raise ItemError(f"picture {name[:60]!r} is an address and no file: save it in the folder")
        told = repr(name if len(name) < 200 else f"{name[:60]} ... ({len(name):,} characters)")
        try:
            paths = self._paths(name)
            path = next(filter(os.path.lexists, paths), paths[0])
            inside = f"{self._real(path)}{os.sep}".startswith(self._root.rstrip(os.sep) + os.sep)
            status = os.stat(path) if inside else None
        except OSError as error:
            raise ItemError(f"picture {told} cannot be used: {error.strerror}") from error
        except ValueError as error:  # NUL, or half a character
            raise ItemError(f"picture {told} cannot be the name of a file: {error}") from error
        if status is None:
            raise ItemError(f"picture {told} lies outside the folder")
        if not stat.S_ISREG(status.st_mode):
            raise ItemError(f"picture {told} is no file")
        if not status.st_size:
            raise ItemError(f"picture {told} is an empty file")
        return Path(path)

    def _real(self, path: str) -> str:
        """`os.path.realpath`, which asks the system about every folder on the way, once for each folder."""
        parent, name = os.path.split(path)
        if name in ("", os.curdir, os.pardir) or os.path.islink(path):
            return os.path.realpath(path)
        if parent not in self._parents:
            self._parents[parent] = os.path.realpath(parent)
        return os.path.join(self._parents[parent], name)


def _spellings(name: str) -> tuple[str, ...]:
    """A file's name as it is given, and as this system may have it if another one wrote it down.

    Windows divides folders by backslashes; macOS stores accents apart from their letters.
    """
    slashed = name.replace("\\", "/")
    return name, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))


def shown(name: str) -> str:
    """A file's name in a report: it may be any bytes, and what is no character to be seen is written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)


def open_picture(path: str | Path) -> Image.Image:
    """Read a picture file, of an animation the first frame that is shown.

    Raises:
        InputError: no such file, not a complete picture, or in a format that Pillow cannot read.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"Cannot read the picture {str(path)!r}: it is no file.")
        with Image.open(path, formats=_formats()) as image:
            # What stands first in such an animated PNG is for viewers that show no animations.
            if getattr(image, "default_image", False):
                image.seek(1)
            return as_shown(image)
    except UnidentifiedImageError as error:
        raise InputError(f"Cannot read the picture {str(path)!r}: {_what_instead(path)}.") from error
    except InputError:
        raise
    except Exception as error:
        # Of any kind: Pillow's readers of damaged files raise what Python and their libraries raise.
        raise InputError(f"Cannot read the picture {str(path)!r}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    """Why a picture could not be read, without its name, which the message has."""
    return (error.strerror if isinstance(error, OSError) else None) or gist(error)


@cache
def _formats() -> tuple[str, ...]:
    """What Pillow reads, without PostScript: that is a program, which Pillow would give Ghostscript to run."""
    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")


def _what_instead(path: str | Path) -> str:
    """What a file is that is no picture, as far as its beginning says."""
    with open(path, "rb") as file:
        start = file.read(1024)
    for pattern, what in _NO_PICTURES.items():
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return what
    return "it is in no format that Pillow knows" if start else "it is empty"


def as_shown(image: Image.Image) -> Image.Image:
    """A picture as RGB, as viewers show it.

    It is turned as its EXIF orientation says; what is see-through lies on white; 16 bits are scaled to 8, not clipped;
    print colours (CMYK) go through the picture's own profile if it has one. An upright RGB picture stays what it is.
    """
    image.load()  # a PNG's EXIF may stand behind its pixels
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "CMYK":
        image = _from_print(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """A picture turned as it says that the camera was held.

    `ImageOps.exif_transpose` writes the other notes anew and fails where they are damaged; viewers do not mind them.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # notes that cannot be read at all say nothing
        turn = None
    if turn is None:
        return image
    turned = image.transpose(turn)
    for note in _NOTES:  # it must not be turned again
        turned.info.pop(note, None)
    return turned


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its own scale; wider numbers, which have none, from their smallest to their largest."""
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    values = np.nan_to_num(values, posinf=finite.max(initial=0.0), neginf=finite.min(initial=0.0))
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
