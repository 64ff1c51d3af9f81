"""What one optimiser step of the embedded model sees: a pure function of (step, size, seed)."""

from functools import cache
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, Question, Scene, patch_classes
from tokenry.data.scenes.style import Split
from tokenry.models.vlm.embedded.caption_head import caption, caption_words
from tokenry.models.vlm.embedded.model import build_tokenizer
from tokenry.train.loop import Batch

IGNORE = -100
DRILLED = ("where", "exists", "relation")  # kinds that must find an object by its name


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


def _pixels_and_labels(scenes: list[Scene]) -> Batch:
    labels = np.stack([patch_classes(scene).reshape(-1) for scene in scenes])
    return {
        "pixels": torch.from_numpy(np.stack([scene.pixels for scene in scenes])),
        "labels": torch.from_numpy(labels.astype(np.int64)),
    }


def tower_batch(step: int, *, size: int, seed: int) -> Batch:
    """Scenes, patch labels, captions and captions with one wrong word, for one step."""
    rng = np.random.default_rng((seed, step))
    scenes = [make_scene("train", step * size + i, seed) for i in range(size)]
    captions = [caption(scene) for scene in scenes]
    words = np.zeros((2, size, max(map(len, captions))), dtype=np.int64)
    for row, ids in enumerate(captions):
        words[0, row, : len(ids)] = ids
        words[1, row, : len(ids)] = _exchange_one(ids, rng)
    return _pixels_and_labels(scenes) | {
        "words": torch.from_numpy(words[0]),
        "negatives": torch.from_numpy(words[1]),
    }


def _questions(scene: Scene, number: int, drill: int) -> list[Question]:
    rounds = [scene.ask(number)] + [scene.ask(3, DRILLED, variant) for variant in range(1, 1 + drill)]
    unique = {question.text: question for round_ in rounds for question in round_}
    return list(unique.values())


def answer_batch(
    step: int, *, size: int, seed: int, questions: int, drill: int = 0, split: Split = "train"
) -> Batch:
    """Scenes with their questions packed behind them, for one step.

    Returns:
        ``pixels``, ``labels`` as for the tower; ``ids``, ``positions``, ``segment`` (which question; -1 padding),
        ``target`` (next token of an answer, else -100) and ``kind``, all [size, length].
    """
    scenes = [make_scene(split, step * size + i, seed) for i in range(size)]
    eos = _tokenizer().eos_token_id
    rows: list[dict[str, list[int]]] = []
    for scene in scenes:
        row: dict[str, list[int]] = {"ids": [], "positions": [], "segment": [], "target": [], "kind": []}
        for number, question in enumerate(_questions(scene, questions, drill)):
            asked, answer = token_ids(question.text), token_ids(question.answer)
            length = len(asked) + len(answer)
            row["ids"] += asked + answer
            row["positions"] += range(length)
            row["segment"] += [number] * length
            row["target"] += [IGNORE] * (len(asked) - 1) + [*answer, eos]
            row["kind"] += [KINDS.index(question.kind)] * length
        rows.append(row)
    fill = {"ids": 0, "positions": 0, "segment": -1, "target": IGNORE, "kind": -1}
    width = max(len(row["ids"]) for row in rows)
    packed = {
        key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])
        for key, value in fill.items()
    }
    return _pixels_and_labels(scenes) | packed
