"""What one optimiser step of the small LLaVA sees: a pure function of (step, size, seed), on cached features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, Scene, patch_class_names, patch_classes
from tokenry.data.scenes.style import CELLS, LARGE, Split
from tokenry.models.backbones.features import FeatureCache, PictureSeries
from tokenry.models.vlm.answering import IGNORE, packed
from tokenry.train.objective import Batch

CAPTION: Final = "caption"
ALL_KINDS: Final = (*KINDS, CAPTION)
_DRILLED: Final = ("where", "exists", "relation")
_SIGN: Final = "sign"
_VARIANTS: Final = 40
"""Sets of questions about one picture."""
_LISTS: Final = 4
"""Ways of telling what a picture shows (`_lists`)."""


def things() -> tuple[str, ...]:
    """What patches can show, in the order of `thing_of`: the objects of the pack, and a sign."""
    return (*(item.name for item in load_pack().objects), _SIGN)


def thing_of(labels: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Which thing each class of patches is; -1 for the background. Letters belong to their sign."""
    objects = len(load_pack().objects)
    first = len(patch_class_names()) - objects  # before them the background, a sign's board and its letters
    return torch.where(labels >= first, labels - first, torch.where(labels > 0, objects, -1))


def place_of(grid: int) -> Int[Tensor, " n"]:
    """Which of the nine places each patch of a square grid lies in, by its upper left corner."""
    cell = torch.arange(grid) * CELLS // grid
    return (cell[:, None] * CELLS + cell).flatten()


def pictures_of(patches: int) -> int:
    """Pictures among whose patches so many are drawn."""
    return max(1, patches // 24)


def series(split: Split, count: int, seed: int) -> PictureSeries:
    """Large scenes by number."""
    return PictureSeries(
        f"scenes-{LARGE.name}-{split}",
        count,
        lambda number: make_scene(split, number, seed, LARGE).image,
        {"split": split, "seed": seed, "style": LARGE.name, "sizes": str(dict(LARGE.sizes))},
    )


@dataclass(eq=False)
class Questions:
    """Questions about large scenes, as ids.

    Attributes:
        tokenizer: the language model's.
        features: of the scenes, by number.
        split: which scenes.
        seed: of them.
        grid: patches of a side.
    """

    tokenizer: PreTrainedTokenizerBase
    features: FeatureCache
    split: Split
    seed: int
    grid: int = 16

    def ids(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def names(self) -> Int[Tensor, " classes"]:
        """For each class of patches the first token of its name; `IGNORE` for the background."""
        first = torch.tensor([self.ids(f" {name}")[0] for name in things()])
        which = thing_of(torch.arange(len(patch_class_names())))
        return torch.where(which >= 0, first[which.clamp(min=0)], IGNORE)

    def patches(self, step: int, *, size: int, seed: int) -> Batch:
        """Patches of many pictures, a quarter of them background.

        Returns:
            ``patches`` [p, width], ``thing`` [p] (-1: none), ``place`` [p].
        """
        rng = np.random.default_rng((seed, step))
        scenes, features = self._some(rng, pictures_of(size))
        labels, places = self._labels(scenes).flatten(), place_of(self.grid).repeat(len(scenes))
        shown, empty = (labels > 0).nonzero()[:, 0].numpy(), (labels == 0).nonzero()[:, 0].numpy()
        chosen = np.concatenate([rng.choice(shown, size), rng.choice(empty, size // 3)])
        return {
            "patches": features.flatten(0, 1)[chosen],
            "thing": thing_of(labels[chosen]),
            "place": places[chosen],
        }

    def answers(
        self, step: int, *, size: int, seed: int, captions: int = 0, questions: int = 7, drill: int = 0
    ) -> Batch:
        """Pictures with captions and questions packed behind them.

        Returns:
            ``features`` [size, n, width], ``labels`` [size, n] and what `packed` gives.
        """
        rng = np.random.default_rng((seed, step))
        scenes, features = self._some(rng, size)
        asked = []
        for scene in scenes:
            variant, order = int(rng.integers(_VARIANTS)), rng.permutation(_LISTS)
            asked.append(self._asked(scene, variant, questions, drill, order[:captions]))
        labels = {"features": features, "labels": self._labels(scenes)}
        return labels | packed(asked, int(self.tokenizer.eos_token_id))

    def held_out(self, step: int, *, size: int) -> Batch:
        """Pictures one after the other, with one question of every kind."""
        numbers = np.arange(step * size, min((step + 1) * size, len(self.features)))
        scenes, features = self._these(numbers)
        asked = [self._asked(scene, 0, len(KINDS)) for scene in scenes]
        labels = {"features": features, "labels": self._labels(scenes)}
        return labels | packed(asked, int(self.tokenizer.eos_token_id))

    def _some(self, rng: np.random.Generator, count: int) -> tuple[list[Scene], Tensor]:
        return self._these(rng.choice(len(self.features), count, replace=False))

    def _these(self, numbers: np.ndarray) -> tuple[list[Scene], Tensor]:
        scenes = [make_scene(self.split, int(number), self.seed, LARGE) for number in numbers]
        return scenes, self.features[torch.from_numpy(numbers)][:, 1:]

    def _labels(self, scenes: Sequence[Scene]) -> Int[Tensor, "b n"]:
        labels = [patch_classes(scene, (self.grid, self.grid)).reshape(-1) for scene in scenes]
        return torch.from_numpy(np.stack(labels).astype(np.int64))

    def _asked(
        self,
        scene: Scene,
        variant: int,
        questions: int,
        drill: int = 0,
        lists: Sequence[int] | np.ndarray = (),
    ) -> list[tuple[int, list[int], list[int]]]:
        """Kind, question and answer: the lists of these numbers first, then every question once."""
        found = list(scene.ask(questions, variant=variant)) if questions else []
        for round_ in range(drill):
            found += scene.ask(3, _DRILLED, _VARIANTS * (1 + round_) + variant)
        asked = {q.text: (KINDS.index(q.kind), q.text, q.answer) for q in found}
        told = [(ALL_KINDS.index(CAPTION), *_lists(scene)[number]) for number in lists]
        every = [*told, *asked.values()]
        return [(kind, self.ids(f"\n{text}"), self.ids(f" {answer}")) for kind, text, answer in every]


def _lists(scene: Scene) -> list[tuple[str, str]]:
    """What a picture shows, asked for and told in different ways, in the order of rows."""
    objects, items = load_pack().objects, sorted(scene.items, key=lambda item: item.cell)
    named = [(item.place, objects[item.index].name, objects[item.index].group) for item in items]
    return [
        ("describe the picture.", ", ".join(f"{place}: {name}" for place, name, _ in named)),
        ("name the things and their places.", ", ".join(f"{name}: {place}" for place, name, _ in named)),
        ("what kinds of things are where?", ", ".join(f"{place}: {group}" for place, _, group in named)),
        ("what is there?", ", ".join(name for _, name, _ in named)),
    ]
