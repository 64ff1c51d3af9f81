"""What a method kept, on the picture itself.

One reading for every method: a patch is as clear as it lived long. A patch that never entered the language model lies
under a grey veil, one that left half way under half of it. Patches that were merged into one carry their group's
colour and outline.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

from markupsafe import Markup, escape
from PIL import Image, ImageDraw, ImageFont

from tokenry.bench.reducers.results import TokenTrace
from tokenry.tokens import InputError

VEIL = 0.88
"""Opacity over a patch that never entered."""
_VEIL_RGB = (58, 67, 80)
_GROUP_COLOURS = ("#3b82f6", "#f97316", "#22c55e", "#e879f9", "#facc15", "#06b6d4", "#f43f5e", "#a3e635")
_LINE = "#ffffff"


def has_grid(trace: TokenTrace | None) -> bool:
    """Whether the tokens lie on one rectangular grid over the picture."""
    return trace is not None and trace.grid[0] == 1 and trace.grid[1] > 1 and _fits(trace)


def _fits(trace: TokenTrace) -> bool:
    return trace.grid[1] * trace.grid[2] == len(trace.life)


def svg_overlay(trace: TokenTrace, picture: str, label: str) -> Markup:
    """An SVG that shows the picture (an `<image>` or `<symbol>` with that id, of unit size) under its veil.

    The view box is the token grid, so that a patch is a unit square.

    Raises:
        InputError: the tokens lie on no grid.
    """
    rows, columns = _grid(trace)
    veils: dict[float, list[str]] = {}
    for level, y, x, length in _runs(trace):
        veils.setdefault(level, []).append(f"M{x} {y}h{length}v1h-{length}z")
    body = "".join(
        f'<path d="{"".join(d)}" fill-opacity="{a:.2f}"/>' for a, d in sorted(veils.items()) if a > 0
    )
    body += "".join(
        f'<path d="{"".join(f"M{x} {y}h1v1h-1z" for y, x in cells)}" fill="{colour}" fill-opacity=".26"/>'
        for colour, cells in _tints(trace).items()
    )
    edges = "".join(f"M{x0} {y0}L{x1} {y1}" for x0, y0, x1, y1 in _edges(trace))
    if edges:
        body += f'<path d="{edges}" fill="none" stroke="{_LINE}" stroke-width=".1"/>'
    return Markup(
        f'<svg class="overlay" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><use href="#{escape(picture)}" width="{columns}" height="{rows}"/>{body}</svg>'
    )


def draw_overlay(picture: Image.Image, trace: TokenTrace, width: int = 288) -> Image.Image:
    """The picture, `width` pixels wide, under its veil.

    Raises:
        InputError: the tokens lie on no grid.
    """
    rows, columns = _grid(trace)
    size = (width, max(1, round(width * picture.height / picture.width)))
    image = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image, "RGBA")

    def at(x: float, y: float) -> tuple[int, int]:
        return round(x * size[0] / columns), round(y * size[1] / rows)

    def cell(x: int, y: int, length: int) -> tuple[int, int, int, int]:
        (left, top), (right, bottom) = at(x, y), at(x + length, y + 1)
        return left, top, right - 1, bottom - 1

    for level, y, x, length in _runs(trace):
        if level > 0:
            pen.rectangle(cell(x, y, length), (*_VEIL_RGB, round(255 * level)))
    for colour, cells in _tints(trace).items():
        for y, x in cells:
            pen.rectangle(cell(x, y, 1), colour + "42")
    for x0, y0, x1, y1 in _edges(trace):
        pen.line((*at(x0, y0), *at(x1, y1)), _LINE, max(1, width // 160))
    return image


def contact_sheet(
    picture: Image.Image, cells: list[list[tuple[str, TokenTrace | None]]], title: str, width: int = 176
) -> Image.Image:
    """Overlays of one picture in rows and columns, each under its caption, headed by a title."""
    margin, caption = 14, 22
    height = max(1, round(width * picture.height / picture.width))
    step_x, step_y = width + margin, height + caption + margin
    columns = max((len(row) for row in cells), default=0)
    sheet = Image.new("RGB", (margin + max(2, columns) * step_x, 44 + len(cells) * step_y), "#ffffff")
    pen = ImageDraw.Draw(sheet)
    pen.text((margin, 14), title, "#16202c", font=ImageFont.load_default(17))
    for i, row in enumerate(cells):
        for j, (text, trace) in enumerate(row):
            x, y = margin + j * step_x, 44 + i * step_y
            if trace is not None and has_grid(trace):
                sheet.paste(draw_overlay(picture, trace, width), (x, y))
            else:
                pen.rectangle((x, y, x + width - 1, y + height - 1), outline="#dfe4ea")
            pen.text((x, y + height + 4), text, "#16202c", font=ImageFont.load_default(13))
    return sheet


def encode_picture(image: Image.Image, limit: int = 448, most: int = 64_000) -> str:
    """A picture as base64 PNG, its longer side at most `limit` pixels; as JPEG if it would take over `most` bytes."""
    small = image.convert("RGB")
    small.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    if buffer.tell() > most:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()


def decode_picture(data: str) -> Image.Image:
    """The inverse of `encode_picture`.

    Raises:
        InputError: not a picture.
    """
    try:
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"A picture stored in the results file cannot be read: {error}.") from error
    return image.convert("RGB")


def _grid(trace: TokenTrace) -> tuple[int, int]:
    if not has_grid(trace):
        raise InputError(
            f"{len(trace.life)} tokens on a grid of {trace.grid} cannot be laid over the picture."
        )
    return trace.grid[1], trace.grid[2]


def _runs(trace: TokenTrace) -> Iterator[tuple[float, int, int, int]]:
    """Runs of equally veiled patches: (opacity, row, first column, length)."""
    rows, columns = trace.grid[1:]
    for y in range(rows):
        levels = [VEIL * (1 - life / trace.layers) for life in trace.life[y * columns : (y + 1) * columns]]
        start = 0
        for x in range(1, columns + 1):
            if x == columns or levels[x] != levels[start]:
                yield levels[start], y, start, x - start
                start = x


def _tints(trace: TokenTrace) -> dict[str, list[tuple[int, int]]]:
    """Cells of merged groups by colour. Groups of one patch are not merged and stay plain."""
    if trace.group is None:
        return {}
    columns = trace.grid[2]
    found: dict[str, list[tuple[int, int]]] = {}
    for i, group in enumerate(trace.group):
        if group >= 0 and trace.life[i] and trace.group.count(group) > 1:
            # A stride that is coprime to the palette gives neighbouring groups different colours, row by row.
            found.setdefault(_GROUP_COLOURS[group * 3 % len(_GROUP_COLOURS)], []).append(divmod(i, columns))
    return found


def _edges(trace: TokenTrace) -> Iterator[tuple[int, int, int, int]]:
    """Borders between different groups of which one is merged, as (x0, y0, x1, y1)."""
    if trace.group is None:
        return
    rows, columns = trace.grid[1:]
    sizes = {g: trace.group.count(g) for g in set(trace.group)}

    def merged(y: int, x: int) -> int:
        group = trace.group[y * columns + x] if trace.group else -1
        return group if group >= 0 and sizes[group] > 1 else -1

    for y in range(rows):
        for x in range(columns):
            if x + 1 < columns and merged(y, x) != merged(y, x + 1):
                yield x + 1, y, x + 1, y + 1
            if y + 1 < rows and merged(y, x) != merged(y + 1, x):
                yield x, y + 1, x + 1, y + 1
