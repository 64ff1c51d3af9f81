"""Composed pictures with questions: small objects and signs on a 3 x 3 layout over textured backgrounds.

Every scene is a pure function of (split, seed, index, style). Objects are small (a sixth of the width), so most visual
tokens of a scene show background: a method that keeps the right ones can answer, one that does not cannot.

The splits are disjoint by construction. A scene of a split has

- a *combination* (the set of objects shown) and a *layout* (the set of occupied cells) whose hash falls to that split,
- a sign *word* whose hash falls to that split,
- a *background family* and an object *scale* from a list of that split.

All object names, places and letters occur in training.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product
from types import MappingProxyType
from typing import TypeVar, cast, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from tokenry.data.scenes.pack import Pack, load_pack
from tokenry.data.scenes.style import CELLS, SceneStyle, Split
from tokenry.tokens.errors import TokenryError

Q = TypeVar("Q")
Box = tuple[int, int, int, int]
Cell = tuple[int, int]

PLACES: tuple[str, ...] = (
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right",
)  # fmt: skip
KINDS: tuple[str, ...] = ("place", "where", "exists", "count", "group", "color", "relation", "sign")
DIRECTIONS = MappingProxyType(
    {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
)
SIGN_COLOURS = MappingProxyType(
    {
        "red": (205, 30, 35),
        "orange": (245, 140, 20),
        "yellow": (250, 220, 45),
        "green": (25, 135, 60),
        "blue": (30, 85, 200),
        "purple": (125, 50, 160),
        "white": (245, 245, 245),
        "black": (25, 25, 28),
    }
)
BRIGHT = frozenset({"yellow", "white", "orange"})  # signs that carry dark letters
MAX_COUNT = 3
SIGN = 64
"""Whose pixels are a sign's, from here on (`Scene.owner`): the board's, then those of the letters' cells."""

TEXTURES = MappingProxyType(
    {
        "train": (
            "gradient",
            "radial",
            "stripes",
            "checkers",
            "clouds",
            "blobs",
            "grain",
            "plaid",
            "dots",
            "steps",
        ),
        "val": ("speckle", "mosaic"),
        "test": ("rings", "marble", "bricks", "waves"),
    }
)


def split_of(kind: str, value: bytes) -> Split:
    """The split to which a combination, layout or word belongs: 80% train, 10% val, 10% test, by a stable hash."""
    bucket = zlib.crc32(value, zlib.crc32(kind.encode())) % 10
    return "val" if bucket == 8 else "test" if bucket == 9 else "train"


@cache
def sign_words(split: Split) -> tuple[str, ...]:
    """The words that signs of a split show: pronounceable, three or four letters, not a word the questions use."""
    v, c = "aeiou", "bcdfghjklmnpqrstvwxyz"
    patterns = ((c, v, c), (v, c, v), (c, v, c, v), (v, c, v, c))
    words = ("".join(letters) for pattern in patterns for letters in product(*pattern))
    taken = reserved_words()
    # a word that starts with a vocabulary word would not be read letter by letter by a longest-match tokenizer
    return tuple(
        word
        for word in words
        if split_of("word", word.encode()) == split
        and not any(word[:n] in taken for n in range(2, len(word) + 1))
    )


@cache
def reserved_words() -> frozenset[str]:
    """Every word that questions and answers are made of, signs aside."""
    pack = load_pack()
    texts = [item.name for item in pack.objects] + list(pack.groups) + list(PLACES) + list(SIGN_COLOURS)
    texts += [item.colour for item in pack.objects if item.colour]
    texts += [
        "yes no sign thing is there a an what kind of at the color how many times can you see where does say"
    ]
    texts += list(DIRECTIONS)
    return frozenset(word for text in texts for word in text.split())


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    Attributes:
        index: which object of the pack.
        cell: (row, column) of the layout.
        box: pixel box (x0, y0, x1, y1) of its ink.
        depth: how high it lies: 1 on the background, else one above the highest object that it covers.
    """

    index: int
    cell: Cell
    box: Box
    depth: int = 1

    @property
    def place(self) -> str:
        """The name of its cell."""
        return PLACES[self.cell[0] * CELLS + self.cell[1]]


@dataclass(frozen=True)
class Sign:
    """A coloured board with a word, lying over two neighbouring cells of a row, on top of everything.

    Attributes:
        word, colour: what it says, and the colour of the board.
        cells: where it lies in the layout.
        box: pixel box of the board.
        letters: pixel boxes of the letters.
        depth: as of an `Item`.
    """

    word: str
    colour: str
    cells: tuple[Cell, Cell]
    box: Box
    letters: tuple[Box, ...]
    depth: int = 1


@dataclass(frozen=True)
class Question:
    """A question with its answer and the pixel boxes on which the answer depends."""

    kind: str
    text: str
    answer: str
    regions: tuple[Box, ...]


@dataclass(frozen=True)
class Scene:
    """A composed picture and everything that is known about it.

    Attributes:
        split, seed, index, style: where it comes from.
        pixels: the RGB picture.
        owner: for each pixel 0 (background), 1 + i (item i), 64 (sign) or 65 + j (cell of the sign's letter j).
        items: the objects, in the order in which they are painted.
        sign: the sign, if there is one; painted last.
        texture: background family.
    """

    split: Split
    seed: int
    index: int
    style: SceneStyle
    pixels: UInt8[np.ndarray, "side side 3"] = field(repr=False)
    owner: UInt8[np.ndarray, "side side"] = field(repr=False)
    items: tuple[Item, ...]
    sign: Sign | None
    texture: str

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return Image.fromarray(self.pixels)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Boxes of the objects, then of the sign."""
        return tuple(item.box for item in self.items) + ((self.sign.box,) if self.sign else ())

    def patch_mask(self, grid: tuple[int, int] = (12, 12), share: float = 0.2) -> Bool[np.ndarray, "h w"]:
        """Cells of a token grid of which at least ``share`` shows an object or a sign (by ink, not by box)."""
        return _cell_share(self.owner > 0, grid) >= share

    @cached_property
    def counts(self) -> dict[int, int]:
        """How often each object of the pack is shown."""
        counts: dict[int, int] = {}
        for item in self.items:
            counts[item.index] = counts.get(item.index, 0) + 1
        return counts

    def ask(self, n: int, kinds: tuple[str, ...] | None = None, variant: int = 0) -> tuple[Question, ...]:
        """Up to ``n`` questions of different kinds, the same ones each time.

        A scene does not admit every kind (no sign, no neighbours), so fewer than ``n`` may come back. Another
        ``variant`` asks about other objects. Without ``kinds`` they are all those that the style asks.
        """
        if kinds is None:
            kinds = tuple(kind for kind in KINDS if kind not in self.style.unasked)
        rng = generator(self.split, self.seed, self.index, stream=1 + variant)
        return some_of(n, kinds, rng, lambda kind: _ASKERS[kind](self, rng, load_pack()))


def _cell_share(mask: Bool[np.ndarray, "side side"], grid: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    height, width = grid
    if mask.shape[0] % height or mask.shape[1] % width:
        raise TokenryError(
            f"A {mask.shape[0]} x {mask.shape[1]} scene cannot be cut into {height} x {width} cells."
        )
    return mask.reshape(height, mask.shape[0] // height, width, -1).mean((1, 3))


def checked(split: str, index: int, seed: int) -> Split:
    """The split of a picture by number.

    Raises:
        TokenryError: for an unknown split or a negative index or seed.
    """
    if split not in get_args(Split):
        raise TokenryError(f"Unknown split {split!r}; there are {', '.join(get_args(Split))}.")
    if index < 0 or seed < 0:
        raise TokenryError(f"Index and seed must not be negative, got index={index}, seed={seed}.")
    return cast(Split, split)


def some_of(
    n: int, kinds: Sequence[str], rng: np.random.Generator, ask: Callable[[str], Q | None]
) -> tuple[Q, ...]:
    """Up to ``n`` questions of kinds in the order of lots; a kind of which there is no question is passed over."""
    found: list[Q] = []
    for kind in rng.permutation(len(kinds)):
        if len(found) == n:
            break
        if (question := ask(kinds[kind])) is not None:
            found.append(question)
    return tuple(found)


def generator(split: Split, seed: int, index: int, stream: int) -> np.random.Generator:
    """What draws a scene (stream 0) or its questions (from 1)."""
    return np.random.Generator(np.random.PCG64((get_args(Split).index(split), seed, index, stream)))


# -------------------------------------------------------------------------------------------- per-patch classes


def patch_class_names() -> tuple[str, ...]:
    """What a patch can show: background, a sign's board, a letter, or an object of the pack."""
    letters = tuple(f"letter {chr(ord('a') + i)}" for i in range(26))
    return ("background", "sign", *letters, *(item.name for item in load_pack().objects))


def patch_classes(
    scene: Scene, grid: tuple[int, int] = (12, 12), share: float = 0.2
) -> Int[np.ndarray, "h w"]:
    """The class that each cell of a token grid shows most of (see :func:`patch_class_names`).

    A cell is background unless ``share`` of it shows something; a cell of a sign shows the letter that fills most of
    it, or the board where no letter fills ``share``.
    """
    objects = tuple(item.index for item in scene.items)
    return owned_classes(scene.owner, objects, scene.sign.word if scene.sign else "", grid, share)


def owned_classes(
    owner: UInt8[np.ndarray, "rows columns"],
    objects: tuple[int, ...],
    letters: str,
    grid: tuple[int, int],
    share: float = 0.2,
) -> Int[np.ndarray, "h w"]:
    """What `patch_classes` says of a picture of any shape.

    Args:
        owner: for each pixel what `Scene.owner` says.
        objects: which object of the pack each item is.
        letters: of the sign; none without one.
        grid: rows and columns of cells.
        share: of a cell that has to show something.
    """
    height, width = grid
    cells = owner.reshape(height, len(owner) // height, width, -1).swapaxes(1, 2).reshape(height * width, -1)
    values = [i + 1 for i in range(len(objects))]
    classes = [28 + index for index in objects]
    if letters:
        values += [SIGN + 1 + i for i in range(len(letters))] + [SIGN]
        classes += [2 + ord(letter) - ord("a") for letter in letters] + [1]
    shares = np.stack([(cells == value).mean(1) for value in values])
    if letters:  # the board is what is left: it counts only where nothing else reaches the share
        board = (cells >= SIGN).mean(1) >= share
        shares[-1] = np.where(board & (shares[:-1].max(0) < share), 1.0, 0.0)
    best = shares.argmax(0)
    found = shares.max(0) >= share
    return np.where(found, np.asarray(classes)[best], 0).reshape(height, width)


# ---------------------------------------------------------------------------------------------------- questions


def _pick(rng: np.random.Generator, items: list[Item]) -> Item | None:
    return items[rng.integers(len(items))] if items else None


def _unique(scene: Scene) -> list[Item]:
    return [item for item in scene.items if scene.counts[item.index] == 1]


def _article(name: str) -> str:
    return ("an " if name[0] in "aeiou" else "a ") + name


def _ask_place(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    item = _pick(rng, list(scene.items))
    if item is None:
        return None
    return Question("place", f"what is at the {item.place}?", pack.objects[item.index].name, (item.box,))


def _ask_where(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    item = _pick(rng, _unique(scene))
    if item is None:
        return None
    return Question("where", f"where is the {pack.objects[item.index].name}?", item.place, (item.box,))


def _ask_exists(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    if rng.random() < 0.5:
        index = tuple(scene.counts)[rng.integers(len(scene.counts))]
        boxes = tuple(item.box for item in scene.items if item.index == index)
        return Question("exists", f"is there {_article(pack.objects[index].name)}?", "yes", boxes)
    absent = [i for i in range(len(pack.objects)) if i not in scene.counts]
    index = absent[rng.integers(len(absent))]
    # "no" depends on everything that is shown
    return Question("exists", f"is there {_article(pack.objects[index].name)}?", "no", scene.boxes)


def _ask_count(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    repeated = [index for index, count in scene.counts.items() if count > 1]
    # most objects are shown once: ask about a repeated one where there is one, so that the answers balance
    choice = repeated if repeated and rng.random() < 0.9 else list(scene.counts)
    index = choice[rng.integers(len(choice))]
    boxes = tuple(item.box for item in scene.items if item.index == index)
    text = f"how many times can you see the {pack.objects[index].name}?"
    return Question("count", text, str(scene.counts[index]), boxes)


def _ask_group(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    item = _pick(rng, list(scene.items))
    if item is None:
        return None
    return Question(
        "group", f"what kind of thing is at the {item.place}?", pack.objects[item.index].group, (item.box,)
    )


def _ask_color(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    if scene.sign and rng.random() < 0.7:
        return Question("color", "what color is the sign?", scene.sign.colour, (scene.sign.box,))
    item = _pick(rng, [item for item in scene.items if pack.objects[item.index].colour])
    if item is None:
        return None
    colour = str(pack.objects[item.index].colour)
    return Question("color", f"what color is the thing at the {item.place}?", colour, (item.box,))


def _ask_relation(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    """Ask about the neighbouring cell, with a named object that is shown once."""
    by_cell = {item.cell: item for item in scene.items}
    pairs = [
        (item, words, by_cell[item.cell[0] + dy, item.cell[1] + dx])
        for item in _unique(scene)
        for words, (dy, dx) in DIRECTIONS.items()
        if (item.cell[0] + dy, item.cell[1] + dx) in by_cell
    ]
    if not pairs:
        return None
    item, words, other = pairs[rng.integers(len(pairs))]
    text = f"what is {words} the {pack.objects[item.index].name}?"
    return Question("relation", text, pack.objects[other.index].name, (item.box, other.box))


def _ask_sign(scene: Scene, rng: np.random.Generator, pack: Pack) -> Question | None:
    if scene.sign is None:
        return None
    return Question("sign", "what does the sign say?", scene.sign.word, (scene.sign.box,))


_ASKERS = MappingProxyType(
    {
        "place": _ask_place,
        "where": _ask_where,
        "exists": _ask_exists,
        "count": _ask_count,
        "group": _ask_group,
        "color": _ask_color,
        "relation": _ask_relation,
        "sign": _ask_sign,
    }
)
