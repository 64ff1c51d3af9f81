"""Procedural backgrounds: each family turns a random generator into a 96 x 96 RGB picture.

A family draws a scalar field in [0, 1]; the field blends two random colours. Families, not colours, are what train and
test scenes are kept apart by.
"""

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from PIL import Image

SIDE = 96
_Y, _X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE

Field = Float[np.ndarray, "side side"]


def _smooth(rng: np.random.Generator, cells: int) -> Field:
    """Low-frequency noise: a coarse random grid, enlarged."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _along(rng: np.random.Generator) -> Field:
    """Coordinate along a random direction, about [-0.7, 0.7]."""
    angle = rng.uniform(0, 2 * np.pi)
    return (_X - 0.5) * np.float32(np.cos(angle)) + (_Y - 0.5) * np.float32(np.sin(angle))


def _wave(phase: Field) -> Field:
    return 0.5 + 0.5 * np.sin(phase * np.float32(2 * np.pi))


def _radius(rng: np.random.Generator) -> Field:
    x, y = rng.uniform(0.1, 0.9, 2).astype(np.float32)
    return np.sqrt((_X - x) ** 2 + (_Y - y) ** 2)


def _gradient(rng: np.random.Generator) -> Field:
    return _along(rng) * np.float32(0.7) + np.float32(0.5)


def _radial(rng: np.random.Generator) -> Field:
    return _radius(rng)


def _stripes(rng: np.random.Generator) -> Field:
    return _wave(_along(rng) * np.float32(rng.uniform(3, 12)))


def _checkers(rng: np.random.Generator) -> Field:
    n = rng.integers(4, 12)
    return ((np.floor(_X * n) + np.floor(_Y * n)) % 2).astype(np.float32)


def _clouds(rng: np.random.Generator) -> Field:
    return 0.6 * _smooth(rng, 4) + 0.4 * _smooth(rng, 9)


def _blobs(rng: np.random.Generator) -> Field:
    return (_smooth(rng, int(rng.integers(5, 12))) > 0.5).astype(np.float32)


def _grain(rng: np.random.Generator) -> Field:
    return rng.random((SIDE, SIDE), dtype=np.float32)


def _plaid(rng: np.random.Generator) -> Field:
    n, m = rng.uniform(2, 9, 2)
    return 0.5 * _wave(_X * np.float32(n)) + 0.5 * _wave(_Y * np.float32(m))


def _dots(rng: np.random.Generator) -> Field:
    n = np.float32(rng.uniform(5, 14))
    return (_wave(_X * n) * _wave(_Y * n) > 0.55).astype(np.float32)


def _steps(rng: np.random.Generator) -> Field:
    n = rng.integers(3, 9)
    return np.floor((_along(rng) + np.float32(0.75)) * n) / n


def _speckle(rng: np.random.Generator) -> Field:
    return (rng.random((SIDE, SIDE), dtype=np.float32) > rng.uniform(0.75, 0.95)).astype(np.float32)


def _mosaic(rng: np.random.Generator) -> Field:
    coarse = rng.random((12, 12), dtype=np.float32)
    return np.kron(coarse, np.ones((8, 8), dtype=np.float32))


def _rings(rng: np.random.Generator) -> Field:
    return _wave(_radius(rng) * np.float32(rng.uniform(3, 10)))


def _marble(rng: np.random.Generator) -> Field:
    return _wave(_along(rng) * np.float32(rng.uniform(2, 5)) + 1.5 * _smooth(rng, 5))


def _bricks(rng: np.random.Generator) -> Field:
    n = rng.integers(5, 10)
    row = np.floor(_Y * n)
    x = _X * n / 2 + 0.5 * (row % 2)
    return ((x % 1 > 0.1) & (_Y * n % 1 > 0.18)).astype(np.float32)


def _waves(rng: np.random.Generator) -> Field:
    bend = np.float32(rng.uniform(0.03, 0.1)) * np.sin(_X * np.float32(rng.uniform(10, 25)))
    return _wave((_Y + bend) * np.float32(rng.uniform(4, 9)))


FAMILIES: MappingProxyType[str, Callable[[np.random.Generator], Field]] = MappingProxyType(
    {
        "gradient": _gradient,
        "radial": _radial,
        "stripes": _stripes,
        "checkers": _checkers,
        "clouds": _clouds,
        "blobs": _blobs,
        "grain": _grain,
        "plaid": _plaid,
        "dots": _dots,
        "steps": _steps,
        "speckle": _speckle,
        "mosaic": _mosaic,
        "rings": _rings,
        "marble": _marble,
        "bricks": _bricks,
        "waves": _waves,
    }
)


def paint(family: str, rng: np.random.Generator) -> Float[np.ndarray, "side side 3"]:
    """A background of one family in two random colours, with a little grain.

    Args:
        family: a key of :data:`FAMILIES`.
        rng: source of all randomness.

    Returns:
        RGB in 0..255 as float32.
    """
    field = FAMILIES[family](rng)
    first = rng.uniform(30, 225, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-110, 110, 3), 15, 240).astype(np.float32)
    canvas = first + field[:, :, None] * (second - first)
    canvas += rng.uniform(0, 8) * rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32)
    return canvas.astype(np.float32)
