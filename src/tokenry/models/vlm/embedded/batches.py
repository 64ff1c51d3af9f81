"""What one optimiser step of the embedded model sees: a pure function of (step, size, seed)."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, Question, Scene, patch_classes
from tokenry.data.scenes.style import FINE, TILED, Split
from tokenry.models.vlm.answering import packed
from tokenry.models.vlm.embedded.caption_head import caption, caption_words
from tokenry.models.vlm.embedded.model import PATCH, build_tokenizer
from tokenry.models.vlm.embedded.tiles import crop_labels, cut, packed_labels
from tokenry.train.loop import Batch

DRILLED = ("where", "exists", "relation")  # kinds that must find an object by its name
LIST = "list"
ALL_KINDS = (*KINDS, LIST)
_SIDE = FINE.side // PATCH


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@cache
def token_ids(text: str) -> tuple[int, ...]:
    """Token ids of a text, nothing added."""
    return tuple(_tokenizer()(text, add_special_tokens=False)["input_ids"])


def _exchange_one(words: list[int], rng: np.random.Generator) -> list[int]:
    """The caption with one word replaced by another of its sort: object, letter or colour."""
    objects = len(load_pack().objects)
    place = int(rng.integers(len(words)))
    bounds = (1, 1 + objects, 27 + objects, len(caption_words()))
    low, high = next((a, b) for a, b in pairwise(bounds) if a <= words[place] < b)
    other = int(rng.integers(low, high - 1))
    other += other >= words[place]
    return [*words[:place], other, *words[place + 1 :]]


def tower_batch(step: int, *, size: int, seed: int, crops: int = 0) -> Batch:
    """Scenes and crops of large ones with patch labels; captions of the scenes, and some with one wrong word.

    Returns:
        ``pixels`` [size + crops, side, side, 3] and ``labels`` [size + crops, n], the scenes first; ``words`` and
        ``negatives`` [size, words].
    """
    rng = np.random.default_rng((seed, step))
    scenes = [make_scene("train", step * size + i, seed, FINE) for i in range(size)]
    captions = [caption(scene) for scene in scenes]
    words = np.zeros((2, size, max(map(len, captions))), dtype=np.int64)
    for row, ids in enumerate(captions):
        words[0, row, : len(ids)] = ids
        words[1, row, : len(ids)] = _exchange_one(ids, rng)
    pixels = [scene.pixels for scene in scenes]
    labels = [patch_classes(scene, (_SIDE, _SIDE)).reshape(-1) for scene in scenes]
    for i in range(crops):
        large, which = make_scene("train", step * crops + i, seed, TILED), int(rng.integers(1, 5))
        pixels.append(cut(large)[which])
        labels.append(crop_labels(large, _SIDE)[which - 1])
    return {
        "pixels": torch.from_numpy(np.stack(pixels)),
        "labels": torch.from_numpy(np.stack(labels).astype(np.int64)),
        "words": torch.from_numpy(words[0]),
        "negatives": torch.from_numpy(words[1]),
    }


def _questions(scene: Scene, number: int, drill: int) -> list[Question]:
    rounds = [scene.ask(number)] + [scene.ask(3, DRILLED, variant) for variant in range(1, 1 + drill)]
    unique = {question.text: question for round_ in rounds for question in round_}
    return list(unique.values())


def lists(scene: Scene) -> tuple[tuple[str, str], ...]:
    """What a scene shows, asked for and told in different ways, in the order of rows: two words a thing."""
    objects, items = load_pack().objects, sorted(scene.items, key=lambda item: item.cell)
    named = [(item.place, objects[item.index].name, objects[item.index].group) for item in items]
    return (
        ("what is where?", " ".join(f"{place} {name}" for place, name, _ in named)),
        ("where is what?", " ".join(f"{name} {place}" for place, name, _ in named)),
        ("what kind is where?", " ".join(f"{place} {group}" for place, _, group in named)),
    )


def answer_batch(
    step: int,
    *,
    size: int,
    seed: int,
    questions: int,
    drill: int = 0,
    told: int = 0,
    tiled: float = 0.0,
    split: Split = "train",
) -> Batch:
    """Scenes with their questions packed behind them, for one step.

    Args:
        step, size, seed, split: which scenes.
        questions: of different kinds about each.
        drill: rounds of further questions that mention objects by name.
        told: how many of the lists of what a picture shows come with each.
        tiled: share of the steps with large pictures in tiles, a quarter as many of them.

    Returns:
        ``pixels`` [size, tiles, side, side, 3], ``labels`` [size, n] of the visual tokens, and what `packed` gives.
    """
    large = int((step + 1) * tiled) > int(step * tiled)
    count = max(1, size // 4) if large else size
    style = TILED if large else FINE
    scenes = [make_scene(split, step * size + i, seed, style) for i in range(count)]
    rng = np.random.default_rng((seed, step))
    asked = [
        [
            (ALL_KINDS.index(kind), token_ids(text), token_ids(answer))
            for kind, text, answer in [
                *((LIST, *lists(scene)[i]) for i in rng.permutation(3)[:told]),
                *((q.kind, q.text, q.answer) for q in _questions(scene, questions, drill)),
            ]
        ]
        for scene in scenes
    ]
    return {
        "pixels": torch.from_numpy(np.stack([cut(s) if large else s.pixels[None] for s in scenes])),
        "labels": _labels(scenes, large),
    } | packed(asked, int(_tokenizer().eos_token_id))


def _labels(scenes: Sequence[Scene], large: bool) -> torch.Tensor:
    rows = [
        packed_labels(s, _SIDE) if large else patch_classes(s, (_SIDE, _SIDE)).reshape(-1) for s in scenes
    ]
    return torch.from_numpy(np.stack(rows).astype(np.int64))
