"""A drawing that can be written twice: as SVG for the page, as PNG for everywhere else.

Three shapes are enough for the charts of a report: open lines, filled polygons, text. Colours are hex, or the name of
a neutral role (`ink`, `muted`, `grid`, `paper`) that the page turns into a CSS variable, so that one SVG is right in a
light and in a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, TypeAlias

from markupsafe import Markup, escape
from PIL import Image, ImageDraw, ImageFont

Point: TypeAlias = tuple[float, float]
Anchor = Literal["start", "middle", "end"]

_LIGHT = {"ink": "#16202c", "muted": "#5b6673", "grid": "#dfe4ea", "paper": "#ffffff"}
_PIL_ANCHOR = {"start": "ls", "middle": "ms", "end": "rs"}


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        kind: `line` (open), `area` (closed and filled) or `text` (at its only point).
        points: in the canvas' units (pixels), y downwards.
        colour: hex, or a neutral role.
        width: of a line.
        dash: lengths of dash and gap, or none.
        opacity: 0..1.
        text, size, anchor, bold: of a text.
        series: whom it belongs to; shapes of one series are highlighted together.
        title: shown when the pointer rests on it.
    """

    kind: Literal["line", "area", "text"]
    points: tuple[Point, ...]
    colour: str = "ink"
    width: float = 1.0
    dash: tuple[float, float] | None = None
    opacity: float = 1.0
    text: str = ""
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False
    series: str = ""
    title: str = ""


@dataclass
class Canvas:
    """A list of shapes on a page of width x height pixels."""

    width: float
    height: float
    shapes: list[Shape] = field(default_factory=list)

    def line(
        self,
        points: Sequence[Point],
        colour: str = "ink",
        *,
        width: float = 1.0,
        dash: tuple[float, float] | None = None,
        opacity: float = 1.0,
        series: str = "",
    ) -> None:
        """An open line through the points."""
        self.shapes.append(Shape("line", tuple(points), colour, width, dash, opacity, series=series))

    def area(
        self, points: Sequence[Point], colour: str, *, opacity: float = 1.0, series: str = "", title: str = ""
    ) -> None:
        """A filled polygon."""
        self.shapes.append(Shape("area", tuple(points), colour, opacity=opacity, series=series, title=title))

    def text(
        self,
        at: Point,
        text: str,
        *,
        size: float = 12,
        colour: str = "ink",
        anchor: Anchor = "start",
        bold: bool = False,
    ) -> None:
        """Text, `at` on its baseline."""
        self.shapes.append(Shape("text", (at,), colour, text=text, size=size, anchor=anchor, bold=bold))

    def marker(
        self, at: Point, form: int, colour: str, *, radius: float = 5, series: str = "", title: str = ""
    ) -> None:
        """A data point; `form` chooses one of the marker forms, so that colour is never the only difference."""
        x, y = at
        # A rim in the page's colour keeps neighbouring markers apart.
        for scale, fill, label in ((radius + 1.5, "paper", ""), (radius, colour, title)):
            outline = [(x + scale * dx, y + scale * dy) for dx, dy in MARKERS[form % len(MARKERS)]]
            self.area(outline, fill, series=series, title=label)

    def svg(self, label: str) -> Markup:
        """The drawing as an inline SVG element; `label` is what a screen reader says."""
        width, height = f"{self.width:g}", f"{self.height:g}"
        body = "".join(_svg(shape) for shape in self.shapes)
        return Markup(
            f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="{escape(label)}">{body}</svg>'
        )

    def png(self, scale: int = 2) -> Image.Image:
        """The drawing as an RGB picture on white, `scale` times as large."""
        fine = scale * 2  # drawn twice as fine and shrunk: PIL does not smooth its edges
        image = Image.new("RGB", (round(self.width * fine), round(self.height * fine)), _LIGHT["paper"])
        pen = ImageDraw.Draw(image, "RGBA")
        for shape in self.shapes:
            _draw(pen, shape, fine)
        return image.resize((round(self.width * scale), round(self.height * scale)), Image.Resampling.LANCZOS)


def _ring(corners: int, turn: float, radius: float = 1.0) -> tuple[Point, ...]:
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return tuple((radius * math.sin(a), -radius * math.cos(a)) for a in angles)


def _star(points: int, inner: float) -> tuple[Point, ...]:
    outer, valley = _ring(points, 0, 1.2), _ring(points, math.pi / points, inner)
    return tuple(p for pair in zip(outer, valley, strict=True) for p in pair)


MARKERS: tuple[tuple[Point, ...], ...] = (
    _ring(20, 0),  # disc
    _ring(4, math.pi / 4, 1.2),  # square
    _ring(3, 0, 1.3),  # triangle
    _ring(4, 0, 1.25),  # diamond
    _ring(3, math.pi, 1.3),  # triangle, point down
    _star(4, 0.45),
    _ring(5, 0, 1.15),  # pentagon
    _star(5, 0.5),
    _ring(3, math.pi / 2, 1.3),  # triangle, point right
    _ring(6, 0, 1.1),  # hexagon
)


def _paint(colour: str) -> str:
    return f"var(--{colour})" if colour in _LIGHT else colour


def _svg(shape: Shape) -> str:
    series = f' data-series="{escape(shape.series)}"' if shape.series else ""
    faint = f' opacity="{shape.opacity:g}"' if shape.opacity < 1 else ""
    colour = _paint(shape.colour)
    if shape.kind == "text":
        ((x, y),) = shape.points
        weight = ' font-weight="600"' if shape.bold else ""
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{shape.size:g}" text-anchor="{shape.anchor}"{weight} '
            f'style="fill:{colour}"{series}>{escape(shape.text)}</text>'
        )
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
    title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
    if shape.kind == "area":
        return f'<path d="{path}Z" style="fill:{colour}"{faint}{series}>{title}</path>'
    dash = f' stroke-dasharray="{shape.dash[0]:g} {shape.dash[1]:g}"' if shape.dash else ""
    return (
        f'<path d="{path}" fill="none" style="stroke:{colour}" stroke-width="{shape.width:g}"{dash}{faint}{series}>'
        f"{title}</path>"
    )


def _draw(pen: ImageDraw.ImageDraw, shape: Shape, scale: float) -> None:
    points = [(x * scale, y * scale) for x, y in shape.points]
    colour = (*_rgb(shape.colour), round(255 * shape.opacity))
    if shape.kind == "text":
        font = ImageFont.load_default(shape.size * scale)
        pen.text(points[0], shape.text, colour, font=font, anchor=_PIL_ANCHOR[shape.anchor])
    elif shape.kind == "area":
        pen.polygon(points, colour)
    else:
        width = max(1, round(shape.width * scale))
        for piece in _dashes(points, shape.dash, scale) if shape.dash else [points]:
            pen.line(piece, colour, width, joint="curve")


def _dashes(points: Sequence[Point], dash: tuple[float, float], scale: float) -> list[list[Point]]:
    """Cut a line into dashes; PIL has none."""
    on, period = dash[0] * scale, sum(dash) * scale
    pieces, walked = [], 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        position = -(walked % period)
        while length and position < length:
            a, b = max(0.0, position) / length, min(length, position + on) / length
            if b > a:
                pieces.append(
                    [(x0 + a * (x1 - x0), y0 + a * (y1 - y0)), (x0 + b * (x1 - x0), y0 + b * (y1 - y0))]
                )
            position += period
        walked += length
    return pieces


def _rgb(colour: str) -> tuple[int, int, int]:
    value = int(_LIGHT.get(colour, colour)[1:], 16)
    return value >> 16, value >> 8 & 255, value & 255
