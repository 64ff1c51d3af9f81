"""Short clips with questions about motion and time: scenes in which something moves, comes, goes or turns into another.

A clip is a scene of :mod:`tokenry.data.scenes.compose` over eight frames. Background, sign and resting objects stand
still, so most visual tokens of a frame repeat those of the frame before: a method that merges over time can save them,
one that drops the frames in which something happens cannot answer.

Every clip is a pure function of (split, index, seed, event, noise, style); splits are kept apart as those of scenes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final, Literal, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tokenry.data.scenes.compose import combination, draw_sign, layout, sprite
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import (
    PLACES,
    TEXTURES,
    Box,
    Cell,
    Item,
    Question,
    Scene,
    Sign,
    checked,
    generator,
    some_of,
)
from tokenry.data.scenes.style import CELLS, FINE, SceneStyle, Split
from tokenry.data.scenes.textures import paint
from tokenry.tokens.errors import TokenryError

Event = Literal["move", "appear", "disappear", "turn", "still"]

FRAMES: Final = 8
CLIP_KINDS: Final = ("direction", "moving", "movers", "start", "end", "appears", "disappears", "becomes")
"""Questions about motion and time."""
STILL_KINDS: Final = ("place", "where", "group", "color", "relation", "sign")
"""Questions of scenes that are asked about what rests."""
HEADINGS: Final = MappingProxyType(
    {"leftwards": (0, -1), "rightwards": (0, 1), "upwards": (-1, 0), "downwards": (1, 0)}
)
"""Where something moves, and the cell to which one step takes it."""
_EVENTS: Final = MappingProxyType({"move": 0.6, "appear": 0.1, "disappear": 0.1, "turn": 0.1, "still": 0.1})
_MOVERS: Final = (0.5, 0.3, 0.2)  # shares of the clips with one, two, three things that move
_WORDS: Final = ("which", "direction", "moving", "things", "start", "end", "appears", "disappears", "become")
_STREAMS: Final = 1_000_000  # clips draw from other numbers than the scenes of the same index


@dataclass(frozen=True)
class Track:
    """One object of a clip through its frames.

    Attributes:
        indices: for each frame which object of the pack is shown, -1 where none is.
        cells: for each frame the (row, column) of the layout in which most of it is.
        boxes: for each frame the pixel box of its ink; where it is not shown, where it was or will be.
    """

    indices: tuple[int, ...]
    cells: tuple[Cell, ...]
    boxes: tuple[Box, ...]

    @property
    def heading(self) -> str | None:
        """The direction in which it moves; None if it rests."""
        step = tuple(int(np.sign(b - a)) for a, b in zip(self.cells[0], self.cells[-1], strict=True))
        return next((words for words, one in HEADINGS.items() if one == step), None)

    @property
    def rests(self) -> bool:
        """Whether it is the same in every frame."""
        return len(set(self.indices)) == 1 and self.heading is None

    def at(self, frame: int) -> Item | None:
        """The object in a frame."""
        if self.indices[frame] < 0:
            return None
        return Item(self.indices[frame], self.cells[frame], self.boxes[frame])

    def shown(self) -> tuple[tuple[Box, ...], ...]:
        """Its box in every frame in which it is shown."""
        return tuple(
            (box,) if index >= 0 else () for index, box in zip(self.indices, self.boxes, strict=True)
        )


@dataclass(frozen=True)
class ClipQuestion:
    """A question about a clip with its answer and, for each frame, the pixel boxes on which the answer depends."""

    kind: str
    text: str
    answer: str
    regions: tuple[tuple[Box, ...], ...]


@dataclass(frozen=True)
class Clip:
    """Frames and everything that is known about them.

    Attributes:
        split, seed, index, style: where it comes from.
        event: what happens.
        pixels: the RGB frames.
        owner: for each pixel of each frame what `Scene.owner` says; item i is track i.
        tracks: the objects.
        sign: the sign, if there is one; it stands still.
        texture: background family.
    """

    split: Split
    seed: int
    index: int
    style: SceneStyle
    event: Event
    pixels: UInt8[np.ndarray, "frames side side 3"] = field(repr=False)
    owner: UInt8[np.ndarray, "frames side side"] = field(repr=False)
    tracks: tuple[Track, ...]
    sign: Sign | None
    texture: str

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The frames."""
        return tuple(Image.fromarray(frame) for frame in self.pixels)

    @property
    def movers(self) -> tuple[Track, ...]:
        """What moves."""
        return tuple(track for track in self.tracks if track.heading)

    def scene(self, frame: int) -> Scene:
        """A frame as a scene. Its items are numbered anew where an object is not shown, and so is its `owner`."""
        items = [(number, item) for number, track in enumerate(self.tracks) if (item := track.at(frame))]
        owner = self.owner[frame].copy()
        for new, (number, _) in enumerate(items):
            owner[self.owner[frame] == number + 1] = new + 1
        return Scene(
            self.split,
            self.seed,
            self.index,
            self.style,
            self.pixels[frame],
            owner,
            tuple(item for _, item in items),
            self.sign,
            self.texture,
        )

    @cached_property
    def rest(self) -> Scene:
        """The first frame with only what rests listed in it: what the questions of scenes are asked about."""
        first = self.scene(0)
        kept = tuple(cast(Item, track.at(0)) for track in self.tracks if track.rests)
        return Scene(
            self.split,
            self.seed,
            _STREAMS + self.index,
            self.style,
            first.pixels,
            first.owner,
            kept,
            self.sign,
            self.texture,
        )

    def ask(
        self, n: int, kinds: tuple[str, ...] = CLIP_KINDS + STILL_KINDS, variant: int = 0
    ) -> tuple[ClipQuestion, ...]:
        """Up to ``n`` questions of different kinds, the same ones each time.

        A clip does not admit every kind (nothing appears, two things move), so fewer than ``n`` may come back. Another
        ``variant`` asks about other objects.
        """
        rng = generator(self.split, self.seed, _STREAMS + self.index, stream=1 + variant)
        return some_of(n, kinds, rng, lambda kind: self._question(kind, variant, rng))

    def _question(self, kind: str, variant: int, rng: np.random.Generator) -> ClipQuestion | None:
        if kind in _ASKERS:
            return _ASKERS[kind](self, rng)
        asked: tuple[Question, ...] = self.rest.ask(1, (kind,), variant)
        return _resting(asked[0]) if asked else None


def _resting(question: Question) -> ClipQuestion:
    """A question about what rests: any frame shows it."""
    return ClipQuestion(question.kind, question.text, question.answer, (question.regions,) * FRAMES)


# ------------------------------------------------------------------------------------------------------- composing


def make_clip(
    split: str,
    index: int,
    seed: int = 0,
    *,
    event: str | None = None,
    noise: bool = True,
    style: SceneStyle = FINE,
) -> Clip:
    """Compose one clip; the same arguments always give the same clip.

    Args:
        split: "train", "val" or "test".
        index: which clip of the split, from 0.
        seed: another seed gives other clips of the same split.
        event: what happens in it; None: drawn. In a "still" one all frames are equal.
        noise: whether every frame has a sensor noise of its own; otherwise all have the same.
        style: how it is drawn.

    Raises:
        TokenryError: for an unknown split or event, a negative index or seed, or a style whose objects overlap.
    """
    if event is not None and event not in _EVENTS:
        raise TokenryError(f"Nothing can {event!r} in a clip; events are {', '.join(_EVENTS)}.")
    if style.reach:
        raise TokenryError(
            f"In scenes of the style {style.name!r} objects reach into each other's cells, and what passes there could "
            "not be told from what rests: draw clips in a style with reach=0."
        )
    split = checked(split, index, seed)
    rng = generator(split, seed, _STREAMS + index, stream=0)
    drawn = tuple(_EVENTS)[rng.choice(len(_EVENTS), p=tuple(_EVENTS.values()))]
    what = cast(Event, event or drawn)
    tracks, sign_cells = _compose(what, split, style, rng)
    texture = TEXTURES[split][rng.integers(len(TEXTURES[split]))]
    background = paint(texture, style.side, rng)
    ground = np.zeros((style.side, style.side), dtype=np.uint8)
    sign = draw_sign(background, ground, (split, style), sign_cells, rng, load_pack()) if sign_cells else None
    sizes = [style.sizes[split][rng.integers(len(style.sizes[split]))] for _ in tracks]
    placed = tuple(
        _placed(cells, indices, size, style, rng)
        for (cells, indices), size in zip(tracks, sizes, strict=True)
    )
    light, grain = np.float32(rng.uniform(0.85, 1.15)), rng.uniform(0, 5)
    sensor = rng.standard_normal(background.shape, dtype=np.float32)
    pixels = np.empty((FRAMES, *background.shape), dtype=np.uint8)
    owner = np.empty((FRAMES, *ground.shape), dtype=np.uint8)
    for frame in range(FRAMES):
        canvas, owner[frame] = background.copy(), ground
        for number, (track, size) in enumerate(zip(placed, sizes, strict=True)):
            if track.indices[frame] >= 0:
                _draw(canvas, owner[frame], track, frame, size, number)
        if noise and what != "still":
            sensor = rng.standard_normal(background.shape, dtype=np.float32)
        pixels[frame] = np.clip(canvas * light + grain * sensor, 0, 255).astype(np.uint8)
    return Clip(split, seed, index, style, what, pixels, owner, placed, sign, texture)


_Plan = tuple[tuple[Cell, ...], tuple[int, ...]]  # for each frame the cell, and the object or -1


def _compose(
    event: Event, split: Split, style: SceneStyle, rng: np.random.Generator
) -> tuple[list[_Plan], tuple[Cell, Cell] | None]:
    """What is where in each frame. What something happens to is shown once, so that its name tells which it is."""
    while True:
        cells, sign = layout(split, style.signs, rng)
        chosen = combination(split, len(cells) + (event == "turn"), rng, load_pack())
        other = -1
        if event == "turn":  # into an object that no other track shows
            other = next((one for one in chosen if chosen.count(one) == 1), -1)
            if other < 0:
                continue
            chosen.remove(other)
        once = [number for number, one in enumerate(chosen) if chosen.count(one) == 1]
        if not once:
            continue
        subject = once[rng.integers(len(once))]
        paths = [(cell, cell) for cell in cells]
        shown: list[tuple[int, ...]] = [(one,) * FRAMES for one in chosen]
        when = int(rng.integers(2, FRAMES - 1))
        if event == "move":
            taken = {*cells, *(sign or ())}
            wanted = 1 + int(rng.choice(len(_MOVERS), p=_MOVERS))
            _set_off(paths, rng.permutation(once)[:wanted].tolist(), taken, rng)
            if all(start == end for start, end in paths):
                continue
        elif event != "still":
            before = -1 if event == "appear" else chosen[subject]
            after = {"appear": chosen[subject], "disappear": -1, "turn": other}[event]
            shown[subject] = (before,) * when + (after,) * (FRAMES - when)
        along = [_along(start, end) for start, end in paths]
        return list(zip(along, shown, strict=True)), sign


def _set_off(
    paths: list[tuple[Cell, Cell]], numbers: list[int], taken: set[Cell], rng: np.random.Generator
) -> None:
    """Send objects to cells that nothing else is in or comes through; what has nowhere to go stays."""
    for number in numbers:
        start = paths[number][0]
        ways: list[list[Cell]] = []
        for dy, dx in HEADINGS.values():
            way: list[Cell] = []
            for step in range(1, CELLS):
                cell = (start[0] + step * dy, start[1] + step * dx)
                if cell in taken or not all(0 <= one < CELLS for one in cell):
                    break
                way.append(cell)
                ways.append(list(way))
        if ways:
            way = ways[rng.integers(len(ways))]
            taken.update(way)
            paths[number] = (start, way[-1])


def _along(start: Cell, end: Cell) -> tuple[Cell, ...]:
    """The cell that is nearest in each frame."""
    steps = np.linspace(start, end, FRAMES)
    return tuple((int(row), int(column)) for row, column in np.floor(steps + 0.5).astype(int))


def _placed(
    cells: tuple[Cell, ...], indices: tuple[int, ...], size: int, style: SceneStyle, rng: np.random.Generator
) -> Track:
    """A track with the boxes of its ink: it keeps its place within the cell on its way."""
    shapes = [sprite(one, size)[1].shape[:2] for one in indices if one >= 0]
    tall, wide = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)
    x, y = int(rng.integers(1, style.cell - wide)), int(rng.integers(1, style.cell - tall))
    corners = np.linspace(cells[0], cells[-1], FRAMES) * style.cell
    boxes: list[Box] = []
    for (top, left), one in zip(np.rint(corners).astype(int), indices, strict=True):
        height, width = sprite(one, size)[1].shape[:2] if one >= 0 else shapes[0]
        boxes.append((int(left) + x, int(top) + y, int(left) + x + width, int(top) + y + height))
    return Track(indices, cells, tuple(boxes))


def _draw(canvas: np.ndarray, owner: np.ndarray, track: Track, frame: int, size: int, number: int) -> None:
    colour, alpha = sprite(track.indices[frame], size)
    x0, y0, x1, y1 = track.boxes[frame]
    target = canvas[y0:y1, x0:x1]
    target *= 1 - alpha
    target += colour
    owner[y0:y1, x0:x1][alpha[:, :, 0] > 0.5] = number + 1


# ------------------------------------------------------------------------------------------------------- questions


def _name(index: int) -> str:
    return load_pack().objects[index].name


def _only(clip: Clip, test: Callable[[Track], bool]) -> Track | None:
    """The one track of which something is true."""
    found = [track for track in clip.tracks if test(track)]
    return found[0] if len(found) == 1 else None


def _ask_direction(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    if not clip.movers:
        return None
    track = clip.movers[rng.integers(len(clip.movers))]
    text = f"which direction is the {_name(track.indices[0])} moving?"
    return ClipQuestion("direction", text, str(track.heading), track.shown())


def _ask_moving(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    if len(clip.movers) != 1:
        return None
    return ClipQuestion("moving", "what is moving?", _name(clip.movers[0].indices[0]), clip.movers[0].shown())


def _ask_movers(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    # "none" depends on everything that is shown
    shown = [track.shown() for track in clip.movers or clip.tracks]
    regions = tuple(tuple(box for boxes in frame for box in boxes) for frame in zip(*shown, strict=True))
    return ClipQuestion("movers", "how many things can you see moving?", str(len(clip.movers)), regions)


def _ask_at(clip: Clip, rng: np.random.Generator, kind: str, frame: int) -> ClipQuestion | None:
    """What lies where in the first or the last frame; mostly of what is not there all the time."""
    there = [track for track in clip.tracks if track.indices[frame] >= 0]
    passing = [track for track in there if not track.rests]
    among = passing if passing and rng.random() < 0.7 else there
    track = among[rng.integers(len(among))]
    row, column = track.cells[frame]
    regions = tuple(boxes if i == frame else () for i, boxes in enumerate(track.shown()))
    text = f"what is at the {PLACES[row * CELLS + column]} at the {kind}?"
    return ClipQuestion(kind, text, _name(track.indices[frame]), regions)


def _ask_start(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    return _ask_at(clip, rng, "start", 0)


def _ask_end(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    return _ask_at(clip, rng, "end", FRAMES - 1)


def _ask_appears(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    track = _only(clip, lambda one: one.indices[0] < 0)
    if track is None:
        return None
    return ClipQuestion("appears", "what appears?", _name(track.indices[-1]), track.shown())


def _ask_disappears(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    track = _only(clip, lambda one: one.indices[-1] < 0)
    if track is None:
        return None
    return ClipQuestion("disappears", "what disappears?", _name(track.indices[0]), track.shown())


def _ask_becomes(clip: Clip, rng: np.random.Generator) -> ClipQuestion | None:
    track = _only(clip, lambda one: len({one.indices[0], one.indices[-1], -1}) == 3)
    if track is None:
        return None
    text = f"what does the {_name(track.indices[0])} become?"
    return ClipQuestion("becomes", text, _name(track.indices[-1]), track.shown())


_ASKERS: Final = MappingProxyType(
    {
        "direction": _ask_direction,
        "moving": _ask_moving,
        "movers": _ask_movers,
        "start": _ask_start,
        "end": _ask_end,
        "appears": _ask_appears,
        "disappears": _ask_disappears,
        "becomes": _ask_becomes,
    }
)


def clip_words() -> frozenset[str]:
    """Words of questions about clips and their answers beside those of scenes; none begins a word on a sign."""
    return frozenset([*_WORDS, *HEADINGS, "0"])
