"""Procedural backgrounds: each family turns a random generator into a square RGB picture.

A family draws a scalar field in [0, 1]; the field blends two random colours. Families, not colours, are what train and
test scenes are kept apart by.
"""

from collections.abc import Callable
from functools import cache
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from PIL import Image

Field = Float[np.ndarray, "side side"]


class Canvas:
    """The square on which a background is painted: its side in pixels and the coordinates of each, in [0, 1)."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.y, self.x = np.mgrid[0:side, 0:side].astype(np.float32) / side


_canvas = cache(Canvas)


def _smooth(canvas: Canvas, rng: np.random.Generator, cells: int) -> Field:
    """Low-frequency noise: a coarse random grid, enlarged."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((canvas.side, canvas.side), Image.Resampling.BICUBIC))


def _along(canvas: Canvas, rng: np.random.Generator) -> Field:
    """Coordinate along a random direction, about [-0.7, 0.7]."""
    angle = rng.uniform(0, 2 * np.pi)
    return (canvas.x - 0.5) * np.float32(np.cos(angle)) + (canvas.y - 0.5) * np.float32(np.sin(angle))


def _wave(phase: Field) -> Field:
    return 0.5 + 0.5 * np.sin(phase * np.float32(2 * np.pi))


def _radius(canvas: Canvas, rng: np.random.Generator) -> Field:
    x, y = rng.uniform(0.1, 0.9, 2).astype(np.float32)
    return np.sqrt((canvas.x - x) ** 2 + (canvas.y - y) ** 2)


def _gradient(canvas: Canvas, rng: np.random.Generator) -> Field:
    return _along(canvas, rng) * np.float32(0.7) + np.float32(0.5)


def _radial(canvas: Canvas, rng: np.random.Generator) -> Field:
    return _radius(canvas, rng)


def _stripes(canvas: Canvas, rng: np.random.Generator) -> Field:
    return _wave(_along(canvas, rng) * np.float32(rng.uniform(3, 12)))


def _checkers(canvas: Canvas, rng: np.random.Generator) -> Field:
    n = rng.integers(4, 12)
    return ((np.floor(canvas.x * n) + np.floor(canvas.y * n)) % 2).astype(np.float32)


def _clouds(canvas: Canvas, rng: np.random.Generator) -> Field:
    return 0.6 * _smooth(canvas, rng, 4) + 0.4 * _smooth(canvas, rng, 9)


def _blobs(canvas: Canvas, rng: np.random.Generator) -> Field:
    return (_smooth(canvas, rng, int(rng.integers(5, 12))) > 0.5).astype(np.float32)


def _grain(canvas: Canvas, rng: np.random.Generator) -> Field:
    return rng.random((canvas.side, canvas.side), dtype=np.float32)


def _plaid(canvas: Canvas, rng: np.random.Generator) -> Field:
    n, m = rng.uniform(2, 9, 2)
    return 0.5 * _wave(canvas.x * np.float32(n)) + 0.5 * _wave(canvas.y * np.float32(m))


def _dots(canvas: Canvas, rng: np.random.Generator) -> Field:
    n = np.float32(rng.uniform(5, 14))
    return (_wave(canvas.x * n) * _wave(canvas.y * n) > 0.55).astype(np.float32)


def _steps(canvas: Canvas, rng: np.random.Generator) -> Field:
    n = rng.integers(3, 9)
    return np.floor((_along(canvas, rng) + np.float32(0.75)) * n) / n


def _speckle(canvas: Canvas, rng: np.random.Generator) -> Field:
    return (rng.random((canvas.side, canvas.side), dtype=np.float32) > rng.uniform(0.75, 0.95)).astype(
        np.float32
    )


def _mosaic(canvas: Canvas, rng: np.random.Generator) -> Field:
    cell = np.arange(canvas.side) * 12 // canvas.side
    return rng.random((12, 12), dtype=np.float32)[cell[:, None], cell]


def _rings(canvas: Canvas, rng: np.random.Generator) -> Field:
    return _wave(_radius(canvas, rng) * np.float32(rng.uniform(3, 10)))


def _marble(canvas: Canvas, rng: np.random.Generator) -> Field:
    return _wave(_along(canvas, rng) * np.float32(rng.uniform(2, 5)) + 1.5 * _smooth(canvas, rng, 5))


def _bricks(canvas: Canvas, rng: np.random.Generator) -> Field:
    n = rng.integers(5, 10)
    row = np.floor(canvas.y * n)
    x = canvas.x * n / 2 + 0.5 * (row % 2)
    return ((x % 1 > 0.1) & (canvas.y * n % 1 > 0.18)).astype(np.float32)


def _waves(canvas: Canvas, rng: np.random.Generator) -> Field:
    bend = np.float32(rng.uniform(0.03, 0.1)) * np.sin(canvas.x * np.float32(rng.uniform(10, 25)))
    return _wave((canvas.y + bend) * np.float32(rng.uniform(4, 9)))


FAMILIES: MappingProxyType[str, Callable[[Canvas, np.random.Generator], Field]] = MappingProxyType(
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


def paint(family: str, side: int, rng: np.random.Generator) -> Float[np.ndarray, "side side 3"]:
    """A background of one family in two random colours, with a little grain.

    Args:
        family: a key of :data:`FAMILIES`.
        side: pixels.
        rng: source of all randomness.

    Returns:
        RGB in 0..255 as float32.
    """
    field = FAMILIES[family](_canvas(side), rng)
    first = rng.uniform(30, 225, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-110, 110, 3), 15, 240).astype(np.float32)
    colours = first + field[:, :, None] * (second - first)
    colours += rng.uniform(0, 8) * rng.standard_normal((side, side, 1), dtype=np.float32)
    return colours.astype(np.float32)
