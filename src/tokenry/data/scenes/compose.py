"""Composing a scene: where things lie, which they are, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from tokenry.data.scenes.pack import Pack, load_pack
from tokenry.data.scenes.scenes import (
    BRIGHT,
    MAX_COUNT,
    SIGN,
    SIGN_COLOURS,
    TEXTURES,
    Box,
    Cell,
    Item,
    Scene,
    Sign,
    checked,
    generator,
    sign_words,
    split_of,
)
from tokenry.data.scenes.style import CELLS, SMALL, SceneStyle, Split
from tokenry.data.scenes.textures import paint

TOUCH = 0.02
"""Share of an object's ink on another one from which on it covers it."""


@cache
def sprite(index: int, size: int) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 1"]]:
    """An object scaled to ``size`` pixels and cropped to its ink: premultiplied colour and opacity."""
    image = (
        Image.fromarray(load_pack().sprites[index])
        .convert("RGBa")
        .resize((size, size), Image.Resampling.LANCZOS)
    )
    image = image.crop(image.getchannel("a").point(lambda value: 255 if value > 40 else 0).getbbox())
    pixels = np.asarray(image).astype(np.float32)
    return pixels[:, :, :3], pixels[:, :, 3:] / 255


@cache
def letter_ink(font: int, letter: str, width: int, height: int) -> Float[np.ndarray, "h w 1"]:
    glyph = Image.fromarray(load_pack().glyphs[font, ord(letter) - ord("a")])
    small = glyph.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(small).astype(np.float32)[:, :, None] / 255


def draw_sign(
    canvas: np.ndarray,
    owner: np.ndarray,
    scene: tuple[Split, SceneStyle],
    cells: tuple[Cell, Cell],
    rng: np.random.Generator,
    pack: Pack,
) -> Sign:
    split, style = scene
    words = sign_words(split)
    word = words[rng.integers(len(words))]
    colour = tuple(SIGN_COLOURS)[rng.integers(len(SIGN_COLOURS))]
    (pitch, letter_height), border = style.letter, style.border
    width, height = pitch * len(word) + 5 * border, letter_height + 6 * border
    x = cells[0][1] * style.cell + int(rng.integers(0, 2 * style.cell - width + 1))
    y = cells[0][0] * style.cell + int(rng.integers(1, style.cell - height))
    ink = np.float32(20 if colour in BRIGHT else 245)
    canvas[y : y + height, x : x + width] = ink  # the border has the letters' colour
    canvas[y + border : y + height - border, x + border : x + width - border] = SIGN_COLOURS[colour]
    owner[y : y + height, x : x + width] = SIGN
    font = int(rng.integers(len(pack.glyphs)))
    boxes: list[Box] = []
    for position, letter in enumerate(word):
        left, top = x + 3 * border + position * pitch, y + 3 * border
        glyph = letter_ink(font, letter, pitch - border, letter_height)
        target = canvas[top : top + glyph.shape[0], left : left + glyph.shape[1]]
        target += glyph * (ink - target)
        owner[top : top + glyph.shape[0], left : left + glyph.shape[1]] = SIGN + 1 + position
        boxes.append((left, top, left + glyph.shape[1], top + glyph.shape[0]))
    return Sign(word, colour, cells, (x, y, x + width, y + height), tuple(boxes))


def layout(
    split: Split, signs: float, rng: np.random.Generator
) -> tuple[list[Cell], tuple[Cell, Cell] | None]:
    """Cells for two to five objects, and two cells for a sign in a share of the scenes."""
    while True:
        sign: tuple[Cell, Cell] | None = None
        free = [(row, column) for row in range(CELLS) for column in range(CELLS)]
        if rng.random() < signs:
            row, column = int(rng.integers(CELLS)), int(rng.integers(CELLS - 1))
            sign = ((row, column), (row, column + 1))
            free = [cell for cell in free if cell not in sign]
        number = int(rng.integers(2, 5)) if sign else int(rng.integers(3, 6))
        cells = [free[i] for i in rng.permutation(len(free))[:number]]
        code = bytes(sorted(row * CELLS + column for row, column in cells))
        if split_of("layout", code + (bytes([99, sign[0][0], sign[0][1]]) if sign else b"")) == split:
            return cells, sign


def combination(split: Split, number: int, rng: np.random.Generator, pack: Pack) -> list[int]:
    """An object for each of ``number`` cells, at least two different ones; often one is shown two or three times."""
    while True:
        repeats = 1
        if number > 2 and rng.random() < 0.75:
            repeats = int(rng.integers(2, min(number - 1, MAX_COUNT) + 1))
        chosen = [int(i) for i in rng.choice(len(pack.objects), number - repeats + 1, replace=False)]
        if split_of("combination", np.sort(chosen).astype("<u2").tobytes()) == split:
            return chosen + [chosen[0]] * (repeats - 1)


def _place(cell: int, length: int, style: SceneStyle, rng: np.random.Generator) -> int:
    """Where an object of some width or height begins: inside its cell, or as far outside as the style lets it reach."""
    low = max(1 - style.reach, -(length // 2))
    high = min(style.cell - length + style.reach, style.cell - length // 2)
    start = cell * style.cell + int(rng.integers(low, high))
    return min(max(start, 0), style.side - length)


def _depth(beneath: UInt8[np.ndarray, " n"], items: Sequence[Item]) -> int:
    """How high something lies, by who is seen at the pixels that it will cover; what it merely touches does not count.

    Whatever is hidden there already lies lower than what hides it.
    """
    shares = np.bincount(beneath, minlength=len(items) + 1)[1:] / len(beneath)
    return 1 + max(
        (item.depth for item, share in zip(items, shares, strict=True) if share >= TOUCH), default=0
    )


def make_scene(split: str, index: int, seed: int = 0, style: SceneStyle = SMALL) -> Scene:
    """Compose one scene; the same arguments always give the same scene.

    Args:
        split: "train", "val" or "test".
        index: which scene of the split, from 0.
        seed: another seed gives other scenes of the same split.
        style: how it is drawn.

    Raises:
        TokenryError: for an unknown split or a negative index or seed.
    """
    split = checked(split, index, seed)
    rng = generator(split, seed, index, stream=0)
    pack = load_pack()
    cells, sign_cells = layout(split, style.signs, rng)
    chosen = combination(split, len(cells), rng, pack)
    texture = TEXTURES[split][rng.integers(len(TEXTURES[split]))]
    canvas = paint(texture, style.side, rng)
    owner = np.zeros((style.side, style.side), dtype=np.uint8)
    items: list[Item] = []
    sizes = style.sizes[split]
    for number, (cell, which) in enumerate(zip(cells, chosen, strict=True)):
        colour, alpha = sprite(which, sizes[rng.integers(len(sizes))])
        height, width = alpha.shape[:2]
        x, y = _place(cell[1], width, style, rng), _place(cell[0], height, style, rng)
        target = canvas[y : y + height, x : x + width]
        target *= 1 - alpha
        target += colour
        ink = alpha[:, :, 0] > 0.5
        beneath = owner[y : y + height, x : x + width]
        items.append(Item(which, cell, (x, y, x + width, y + height), _depth(beneath[ink], items)))
        beneath[ink] = number + 1
    before = owner.copy()
    sign = draw_sign(canvas, owner, (split, style), sign_cells, rng, pack) if sign_cells else None
    if sign is not None:
        sign = replace(sign, depth=_depth(before[owner >= SIGN], items))
    canvas *= np.float32(rng.uniform(0.85, 1.15))
    canvas += rng.uniform(0, 5) * rng.standard_normal(canvas.shape, dtype=np.float32)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(split, seed, index, style, pixels, owner, tuple(items), sign, texture)
