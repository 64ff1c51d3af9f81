"""Drawn pages of text with questions: words in lines on a flat ground.

Ground and letters have one colour each and stand on a grid of cells, so that most patches of a page are equal to the
pixel: what is pruned by pixels alone can be told apart here from what is pruned by meaning.

Every page is a pure function of (split, index, seed). The words are those that signs of a split show, and the *shape*
of a page (words in each line) belongs to one split by a stable hash. A page is as large as its text, in whole cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tokenry.data.scenes.compose import letter_ink
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import (
    BRIGHT,
    SIGN_COLOURS,
    Box,
    Question,
    checked,
    generator,
    sign_words,
    some_of,
    split_of,
)
from tokenry.data.scenes.style import Split

CELL: Final = 12
"""Side of the cells that a page is made of; a letter is two thirds of one wide and one high."""
PAGE_KINDS: Final = ("nth", "follows", "below", "lines", "words", "written", "ink")
ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth")
_PITCH: Final = 8
_WORD: Final = 3 * CELL  # four letters and a gap
_LINE: Final = 2 * CELL
_MARGIN: Final = CELL
_COLUMNS, _LINES = (2, 3), (2, 4)  # of words and lines, fewest and most
_WORDS: Final = ("which", "word", "words", "follows", "below", "lines", "text", "last")
_STREAMS: Final = 2_000_000  # pages draw from other numbers than the scenes of the same index


@dataclass(frozen=True)
class Word:
    """A word of a page.

    Attributes:
        text: its letters.
        line, column: where it stands.
        letters: the pixel box (x0, y0, x1, y1) of each letter.
    """

    text: str
    line: int
    column: int
    letters: tuple[Box, ...]

    @property
    def box(self) -> Box:
        """Around its letters."""
        return (*self.letters[0][:2], *self.letters[-1][2:])


@dataclass(frozen=True)
class Page:
    """A drawn page and everything that is known about it.

    Attributes:
        split, seed, index: where it comes from.
        pixels: the RGB picture.
        owner: for each pixel 0 (ground) or 1 + the letter's number in reading order.
        words: in reading order; no two are equal.
        ink: the colour of the letters.
    """

    split: Split
    seed: int
    index: int
    pixels: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    owner: UInt8[np.ndarray, "height width"] = field(repr=False)
    words: tuple[Word, ...]
    ink: str

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return Image.fromarray(self.pixels)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Boxes of the words."""
        return tuple(word.box for word in self.words)

    @property
    def letters(self) -> str:
        """All letters in reading order."""
        return "".join(word.text for word in self.words)

    def ask(self, n: int, kinds: tuple[str, ...] = PAGE_KINDS, variant: int = 0) -> tuple[Question, ...]:
        """Up to ``n`` questions of different kinds, the same ones each time.

        A page does not admit every kind, so fewer than ``n`` may come back. Another ``variant`` asks about other words.
        """
        rng = generator(self.split, self.seed, _STREAMS + self.index, stream=1 + variant)
        return some_of(n, kinds, rng, lambda kind: _ASKERS[kind](self, rng))


def make_page(split: str, index: int, seed: int = 0) -> Page:
    """Draw one page; the same arguments always give the same page.

    Args:
        split: "train", "val" or "test".
        index: which page of the split, from 0.
        seed: another seed gives other pages of the same split.

    Raises:
        TokenryError: for an unknown split or a negative index or seed.
    """
    split = checked(split, index, seed)
    rng = generator(split, seed, _STREAMS + index, stream=0)
    columns, shape = _shape(split, rng)
    vocabulary = sign_words(split)
    texts = iter([vocabulary[i] for i in rng.choice(len(vocabulary), sum(shape), replace=False)])
    ink = tuple(SIGN_COLOURS)[rng.integers(len(SIGN_COLOURS))]
    bright = ink in BRIGHT
    ground = rng.uniform(10, 60, 3) if bright else rng.uniform(225, 255, 3)
    pixels = np.empty((_MARGIN + _LINE * len(shape), _MARGIN + _WORD * columns, 3), dtype=np.uint8)
    pixels[:] = ground.astype(np.uint8)
    owner = np.zeros(pixels.shape[:2], dtype=np.uint8)
    font = int(rng.integers(len(load_pack().glyphs)))
    words: list[Word] = []
    drawn = 0
    for line, number in enumerate(shape):
        for column in range(number):
            corner = (_MARGIN + column * _WORD, _MARGIN + line * _LINE)
            text = next(texts)
            letters = _write(pixels, owner, text, corner, SIGN_COLOURS[ink], font, drawn)
            words.append(Word(text, line, column, letters))
            drawn += len(text)
    return Page(split, seed, index, pixels, owner, tuple(words), ink)


def _shape(split: Split, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
    """How many words fit in a line, and how many stand in each."""
    while True:
        columns = int(rng.integers(_COLUMNS[0], _COLUMNS[1] + 1))
        lines = int(rng.integers(_LINES[0], _LINES[1] + 1))
        shape = tuple(int(n) for n in rng.integers(1, columns + 1, lines))
        if split_of("page", bytes([columns, *shape])) == split:
            return columns, shape


def _write(
    pixels: np.ndarray,
    owner: np.ndarray,
    text: str,
    corner: tuple[int, int],
    colour: tuple[int, int, int],
    font: int,
    drawn: int,
) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for position, letter in enumerate(text):
        x, y = corner[0] + position * _PITCH, corner[1]
        glyph = letter_ink(font, letter, _PITCH - 1, CELL - 1)
        box = (x, y, x + glyph.shape[1], y + glyph.shape[0])
        target = pixels[box[1] : box[3], box[0] : box[2]]
        target[:] = np.rint(target + glyph * (np.asarray(colour, dtype=np.float32) - target))
        owner[box[1] : box[3], box[0] : box[2]] = 1 + drawn + position
        boxes.append(box)
    return tuple(boxes)


# ------------------------------------------------------------------------------------------------------- questions


def _ask_nth(page: Page, rng: np.random.Generator) -> Question | None:
    number = int(rng.integers(min(len(page.words), len(ORDINALS)) + 1))
    last = number == min(len(page.words), len(ORDINALS))
    word = page.words[-1 if last else number]
    return Question(
        "nth", f"what is the {'last' if last else ORDINALS[number]} word?", word.text, (word.box,)
    )


def _ask_follows(page: Page, rng: np.random.Generator) -> Question | None:
    number = int(rng.integers(len(page.words) - 1))
    word, after = page.words[number : number + 2]
    return Question("follows", f"which word follows {word.text}?", after.text, (word.box, after.box))


def _ask_below(page: Page, rng: np.random.Generator) -> Question | None:
    at = {(word.line, word.column): word for word in page.words}
    pairs = [(word, at[line + 1, column]) for (line, column), word in at.items() if (line + 1, column) in at]
    above, word = pairs[rng.integers(len(pairs))]
    return Question("below", f"which word is below {above.text}?", word.text, (above.box, word.box))


def _ask_lines(page: Page, rng: np.random.Generator) -> Question | None:
    first = tuple(word.box for word in page.words if word.column == 0)
    return Question("lines", "how many lines can you see?", str(len(first)), first)


def _ask_words(page: Page, rng: np.random.Generator) -> Question | None:
    return Question("words", "how many words can you see?", str(len(page.words)), page.boxes)


def _ask_written(page: Page, rng: np.random.Generator) -> Question | None:
    if rng.random() < 0.5:
        word = page.words[rng.integers(len(page.words))]
        return Question("written", f"is {word.text} there?", "yes", (word.box,))
    texts = {word.text for word in page.words}
    others = [word for word in sign_words(page.split) if word not in texts]
    # "no" depends on everything that is written
    return Question("written", f"is {others[rng.integers(len(others))]} there?", "no", page.boxes)


def _ask_ink(page: Page, rng: np.random.Generator) -> Question | None:
    return Question("ink", "what color is the text?", page.ink, page.boxes)


_ASKERS: Final = MappingProxyType(
    {
        "nth": _ask_nth,
        "follows": _ask_follows,
        "below": _ask_below,
        "lines": _ask_lines,
        "words": _ask_words,
        "written": _ask_written,
        "ink": _ask_ink,
    }
)


def page_words() -> frozenset[str]:
    """Words of questions about pages and their answers beside those of scenes; none begins a word on a page."""
    most = _COLUMNS[1] * _LINES[1]
    return frozenset([*_WORDS, *ORDINALS, *(str(number) for number in range(1, most + 1))])
