"""Fashion-MNIST: 70,000 grey pictures of clothes, 28 x 28 pixels, in ten classes (arXiv 1708.07747)."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from tokenry.data.debian import fetch
from tokenry.data.packages import Provenance
from tokenry.tokens.errors import InputError, UnknownNameError

PACKAGE = "dataset-fashion-mnist"
CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

_FOLDER = "usr/share/datasets/fashion-mnist"
_PREFIX = {"train": "train", "test": "t10k"}
_GZIP = b"\x1f\x8b"
# Third byte of an IDX file: type of its values, stored big-endian.
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@dataclass(frozen=True)
class FashionMNIST:
    """One split of Fashion-MNIST.

    Attributes:
        images: Grey levels, 0 is background.
        labels: Index of each picture's class in `CLASSES`.
        provenance: Where it comes from, with licence; None if read from a folder of the user's.
    """

    images: UInt8[ndarray, "n height width"]
    labels: UInt8[ndarray, " n"]
    provenance: Provenance | None

    def __len__(self) -> int:
        return len(self.labels)


def load_fashion_mnist(split: str = "train", *, root: Path | None = None) -> FashionMNIST:
    """Load one split, fetching the Debian package `dataset-fashion-mnist` (31 MB) the first time.

    Args:
        split: "train" (60,000 pictures) or "test" (10,000).
        root: Folder with the four IDX files, instead of the package.

    Raises:
        UnknownNameError: If there is no such split.
        PackageUnavailableError: If the package cannot be had here.
        InputError: If a file is missing, damaged, or does not fit the others.
    """
    if split not in _PREFIX:
        raise UnknownNameError(f"Fashion-MNIST has no split {split!r}; choose train or test.")
    provenance = None
    if root is None:
        package = fetch(PACKAGE)
        root = package.root / _FOLDER
        provenance = package.provenance(
            licence="MIT", source="https://github.com/zalandoresearch/fashion-mnist"
        )
    images = _read_first(root, f"{_PREFIX[split]}-images-idx3-ubyte")
    labels = _read_first(root, f"{_PREFIX[split]}-labels-idx1-ubyte")
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise InputError(f"{root}: pictures {images.shape} and labels {labels.shape} do not belong together.")
    if labels.size and labels.max() >= len(CLASSES):
        raise InputError(f"{root}: label {labels.max()} is outside the {len(CLASSES)} classes.")
    return FashionMNIST(images, labels, provenance)


def read_idx(path: Path) -> Shaped[ndarray, "..."]:
    """Read an IDX file, plain or gzipped, into an array in the machine's byte order.

    Raises:
        InputError: If the file cannot be read, is no IDX file, or is longer or shorter than its header says.
    """
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw.startswith(_GZIP) else raw
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES:
        raise InputError(f"{path} is no IDX file: it begins with {data[:4].hex(' ') or 'nothing'}")
    kind, dimensions = np.dtype(_IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise InputError(f"{path} ends inside its header.")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, offset=4))
    expected = start + math.prod(shape) * kind.itemsize
    if len(data) != expected:
        raise InputError(f"{path} has {len(data)} bytes, but its header {shape} asks for {expected}")
    values = np.frombuffer(data, kind, offset=start).reshape(shape)
    return values.astype(kind.newbyteorder("="))  # a copy: frombuffer's is read-only


def _read_first(root: Path, name: str) -> Shaped[ndarray, "..."]:
    for path in (root / f"{name}.gz", root / name):
        if path.is_file():
            return read_idx(path)
    raise InputError(f"{root} has neither {name}.gz nor {name}")
