"""What one optimiser step sees: pictures of one size, clips or pages, a pure function of (step, size, seed)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from transformers import PreTrainedTokenizerFast

from tokenry.data.scenes.clips import CLIP_KINDS, FRAMES, make_clip
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pages import CELL, PAGE_KINDS, make_page
from tokenry.data.scenes.scenes import KINDS, Scene, owned_classes
from tokenry.data.scenes.style import CELLS, FINE, Split
from tokenry.models.vlm.answering import packed
from tokenry.models.vlm.embedded_mrope.model import DEPTH, MERGE, PATCH, build_tokenizer
from tokenry.train.objective import Batch

ALL_KINDS: Final = (*KINDS, *CLIP_KINDS, *PAGE_KINDS)
_DRILLED: Final = ("where", "exists", "relation")  # kinds that must find an object by its name
_SIZES: Final = tuple(
    (rows * CELL, columns * CELL) for rows, columns in ((5, 10), (6, 9), (7, 7), (9, 6), (9, 9), (10, 5))
)


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@cache
def token_ids(text: str) -> tuple[int, ...]:
    """Token ids of a text, nothing added."""
    return tuple(_tokenizer()(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class Owners:
    """What is where in a frame.

    Attributes:
        owner: for each pixel what `Scene.owner` says.
        objects: which object of the pack each item is.
        letters: those of a sign or page.
    """

    owner: UInt8[np.ndarray, "h w"]
    objects: tuple[int, ...]
    letters: str

    @classmethod
    def of(cls, scene: Scene) -> Owners:
        """What is where in a scene."""
        objects = tuple(item.index for item in scene.items)
        return cls(scene.owner, objects, scene.sign.word if scene.sign else "")

    def classes(self, side: int) -> Int[np.ndarray, "h w"]:
        """What each square of so many pixels shows."""
        rows, columns = (n // side for n in self.owner.shape)
        return owned_classes(self.owner, self.objects, self.letters, (rows, columns))


@dataclass(frozen=True)
class Shown:
    """A picture or clip as the batch has it.

    Attributes:
        frames: its frames; a picture has `DEPTH` equal ones.
        owners: what is where in the first frame of each `DEPTH`.
        asked: its questions: kind, text, answer.
    """

    frames: UInt8[np.ndarray, "frames h w 3"]
    owners: tuple[Owners, ...]
    asked: tuple[tuple[str, str, str], ...]


def _asked(
    thing: Any, number: int, drill: int, kinds: tuple[str, ...] | None
) -> tuple[tuple[str, str, str], ...]:
    """Questions about a scene, clip or page; further rounds are about other things."""
    rounds = [thing.ask(number)]
    rounds += [thing.ask(3, kinds, i) if kinds else thing.ask(4, variant=i) for i in range(1, 1 + drill)]
    unique = {one.text: (one.kind, one.text, one.answer) for round_ in rounds for one in round_}
    return tuple(unique.values())


def scene_shown(split: Split, index: int, seed: int, number: int, drill: int) -> Shown:
    """A scene as it is."""
    scene = make_scene(split, index, seed, FINE)
    return Shown(
        np.stack([scene.pixels] * DEPTH), (Owners.of(scene),), _asked(scene, number, drill, _DRILLED)
    )


def sized_shown(size: tuple[int, int], split: Split, index: int, seed: int, number: int, drill: int) -> Shown:
    """A scene scaled to another (height, width)."""
    whole = scene_shown(split, index, seed, number, drill)
    pixels = Image.fromarray(whole.frames[0]).resize(size[::-1], Image.Resampling.BICUBIC)
    (before,) = whole.owners
    owner = Image.fromarray(before.owner).resize(size[::-1], Image.Resampling.NEAREST)
    return Shown(
        np.stack([np.asarray(pixels)] * DEPTH), (replace(before, owner=np.asarray(owner)),), whole.asked
    )


def clip_shown(split: Split, index: int, seed: int, number: int, drill: int) -> Shown:
    """A clip."""
    clip = make_clip(split, index, seed)
    owners = tuple(Owners.of(clip.scene(frame)) for frame in range(0, FRAMES, DEPTH))
    return Shown(clip.pixels, owners, _asked(clip, number, drill, None))


def page_shown(split: Split, index: int, seed: int, number: int, drill: int) -> Shown:
    """A page: one large sign, of which nothing but the letters is seen."""
    page = make_page(split, index, seed)
    owner = np.where(page.owner > 0, page.owner + 64, 0).astype(np.uint8)
    return Shown(
        np.stack([page.pixels] * DEPTH),
        (Owners(owner, (), page.letters),),
        _asked(page, number, drill, None),
    )


def patch_order(cells: Int[np.ndarray, "h w"]) -> Int[np.ndarray, " n"]:
    """Values of patches in the order in which the processor lays them: those of a visual token together."""
    rows, columns = (n // MERGE for n in cells.shape)
    return cells.reshape(rows, MERGE, columns, MERGE).transpose(0, 2, 1, 3).reshape(-1)


def _labels(shown: Shown) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """What each patch shows, and each visual token."""
    patches = [patch_order(owners.classes(PATCH)) for owners in shown.owners]
    tokens = [owners.classes(CELL).reshape(-1) for owners in shown.owners]
    return np.concatenate(patches), np.concatenate(tokens)


def _places(grid: tuple[int, int, int]) -> Int[np.ndarray, " m"]:
    """The cell of the layout in which most of each visual token lies."""
    t, h, w = grid
    rows, columns = (((np.arange(n) + 0.5) * CELLS / n).astype(int) for n in (h, w))
    return np.tile((rows[:, None] * CELLS + columns).reshape(-1), t)


def collated(things: Sequence[Shown]) -> Batch:
    """Pictures of one size, or clips, with the questions packed behind each.

    Returns:
        ``frames``, ``labels`` (of patches), ``shows`` (of visual tokens), ``place``, ``grid`` (of visual tokens: time,
        rows, columns; one for all), and what `packed` makes of the questions.
    """
    labels = [_labels(shown) for shown in things]
    frames, height, width = things[0].frames.shape[:3]
    grid = (frames // DEPTH, height // CELL, width // CELL)
    questions = [
        [(ALL_KINDS.index(kind), token_ids(text), token_ids(answer)) for kind, text, answer in shown.asked]
        for shown in things
    ]
    return {
        "frames": torch.from_numpy(np.stack([shown.frames for shown in things])),
        "labels": torch.from_numpy(np.stack([one[0] for one in labels]).astype(np.int64)),
        "shows": torch.from_numpy(np.stack([one[1] for one in labels]).astype(np.int64)),
        "place": torch.from_numpy(np.tile(_places(grid), (len(things), 1)).astype(np.int64)),
        "grid": torch.tensor([grid] * len(things)),
    } | packed(questions, int(_tokenizer().eos_token_id))


_MAKERS: Final[Mapping[str, Callable[..., Shown]]] = {
    "scene": scene_shown,
    "clip": clip_shown,
    "page": page_shown,
}


def mixed_batch(
    step: int,
    *,
    size: int,
    seed: int,
    shares: Mapping[str, float],
    questions: int,
    drill: int = 0,
    split: Split = "train",
) -> Batch:
    """Things of one sort and size for one step.

    Args:
        step: which one.
        size: pictures; of clips a quarter.
        seed: of the data.
        shares: sort -> share of the steps.
        questions: of different kinds about each.
        drill: rounds of further questions.
        split: of the data.
    """
    rng = np.random.default_rng((seed, step))
    sort = tuple(shares)[rng.choice(len(shares), p=np.array([*shares.values()]) / sum(shares.values()))]
    if sort == "page":
        return collated(_pages_of_a_size(step, size, seed, questions, drill, split))
    if sort == "sized":
        shape = _SIZES[rng.integers(len(_SIZES))]
        return collated(
            [sized_shown(shape, split, step * size + i, seed, questions, drill) for i in range(size)]
        )
    number = max(1, size // 4) if sort == "clip" else size
    return collated([_MAKERS[sort](split, step * size + i, seed, questions, drill) for i in range(number)])


def _pages_of_a_size(
    step: int, size: int, seed: int, questions: int, drill: int, split: Split
) -> list[Shown]:
    """The largest group of pages of one size among twice as many as are wanted for a batch."""
    groups: dict[tuple[int, ...], list[Shown]] = {}
    for i in range(3 * size):
        shown = page_shown(split, step * 3 * size + i, seed, questions, drill)
        groups.setdefault(shown.frames.shape, []).append(shown)
    return max(groups.values(), key=len)[:size]
