"""Tux Paint's stamps: 950 pictures (785 in pixels) with captions in 78 languages, most of them also read aloud."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from PIL import Image, UnidentifiedImageError

from tokenry.data.debian import fetch
from tokenry.data.packages import Provenance
from tokenry.tokens.errors import InputError

PACKAGE = "tuxpaint-stamps-default"

_FOLDER = "usr/share/tuxpaint/stamps"
_CAPTION = re.compile(r"(?P<language>[A-Za-z_@]+)\.utf8=(?P<text>.*)")
_RECORDING = re.compile(r"(?P<stem>.+)_desc(_(?P<language>[a-z]{2,3}(_[A-Z]{2})?))?")


@dataclass(frozen=True)
class Stamp:
    """One stamp.

    Attributes:
        name: Path without suffix inside the collection, such as "animals/birds/owl".
        png: The picture as pixels, or None where there is only a drawing.
        svg: The picture as a vector drawing, or None.
        captions: A sentence about it by language code ("en", "de", "pt_BR", "sr@latin", ...); "en" always exists.
        recordings: The caption read aloud (Ogg Vorbis), by language code.
    """

    name: str
    png: Path | None
    svg: Path | None
    captions: Mapping[str, str]
    recordings: Mapping[str, Path]

    @property
    def category(self) -> str:
        """First part of the name: "animals", "food", "vehicles", ..."""
        return self.name.partition("/")[0]

    @property
    def split(self) -> Literal["train", "test"]:
        """On which side of a comparison it is: a quarter of the subjects are for tests, by a stable hash.

        Pictures of one subject (the letter A, frogs) stay together: what tells it is the first word of the file name.
        """
        subject = re.split(r"[^A-Za-z]", self.name.rpartition("/")[2], maxsplit=1)[0].lower()
        return "test" if zlib.crc32(f"{self.category}/{subject}".encode()) % 4 == 0 else "train"

    def image(self, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
        """Return the picture in RGB, its transparent parts filled.

        Raises:
            InputError: If the file cannot be read, or if there is only a vector drawing.
        """
        if self.png is None:
            raise InputError(
                f"Stamp {self.name!r} is only a vector drawing ({self.svg}); Pillow cannot draw SVG."
            )
        try:
            with Image.open(self.png) as picture:
                rgba = picture.convert("RGBA")
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"Picture {self.png} cannot be read: {error}") from error
        filled = Image.new("RGBA", rgba.size, background)
        return Image.alpha_composite(filled, rgba).convert("RGB")


@dataclass(frozen=True)
class Stamps:
    """The collection, sorted by name.

    Attributes:
        items: The stamps.
        provenance: Where they come from, with licence; None if read from a folder of the user's.
    """

    items: tuple[Stamp, ...]
    provenance: Provenance | None

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Stamp]:
        return iter(self.items)

    def __getitem__(self, index: int) -> Stamp:
        return self.items[index]


def load_stamps(*, root: Path | None = None, drawings: bool = False) -> Stamps:
    """Load the stamps, fetching the Debian package `tuxpaint-stamps-default` (161 MB) the first time.

    Args:
        root: Folder laid out like Tux Paint's stamps, instead of the package.
        drawings: Also return the stamps that exist only as vector drawings.

    Raises:
        PackageUnavailableError: If the package cannot be had here.
        InputError: If the folder holds no stamps, or a caption file cannot be understood.
    """
    provenance = None
    if root is None:
        package = fetch(PACKAGE)
        root = package.root / _FOLDER
        provenance = package.provenance(licence="GPL-2.0-or-later", source="https://tuxpaint.org/stamps/")
    recordings = _find_recordings(root)
    stamps = []
    for text in sorted(root.rglob("*.txt")):  # what has no caption is no stamp: mirrored pictures, settings
        stem = text.with_suffix("")
        png, svg = (
            path if (path := text.with_suffix(suffix)).is_file() else None for suffix in (".png", ".svg")
        )
        if png is None and (svg is None or not drawings):
            continue
        captions = MappingProxyType(read_captions(text))
        name = stem.relative_to(root).as_posix()
        stamps.append(Stamp(name, png, svg, captions, MappingProxyType(recordings.get(stem, {}))))
    if not stamps:
        raise InputError(f"{root} holds no stamps (pictures with a .txt of the same name)")
    return Stamps(tuple(stamps), provenance)


def read_captions(path: Path) -> dict[str, str]:
    """Read a stamp's caption file: the English caption, then a line `LANGUAGE.utf8=caption` per language.

    Raises:
        InputError: If the file is not UTF-8, has no English caption, or has a line of another form.
    """
    try:
        first, *others = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:  # ValueError: nothing in it, or not UTF-8
        raise InputError(f"Captions {path} cannot be read: {error}") from error
    captions = {"en": first.strip()}
    for number, line in enumerate(others, start=2):
        if match := _CAPTION.fullmatch(line.strip()):
            captions[match["language"]] = match["text"].strip()
        elif line.strip():
            raise InputError(
                f"Captions {path}, line {number}: expected LANGUAGE.utf8=caption, found {line[:60]!r}"
            )
    return {language: text for language, text in captions.items() if text}


def _find_recordings(root: Path) -> dict[Path, dict[str, Path]]:
    found: defaultdict[Path, dict[str, Path]] = defaultdict(dict)
    for path in sorted(root.rglob("*_desc*.ogg")):
        if match := _RECORDING.fullmatch(path.stem):
            found[path.with_name(match["stem"])][match["language"] or "en"] = path
    return dict(found)
