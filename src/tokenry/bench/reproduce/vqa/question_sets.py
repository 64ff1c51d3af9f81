"""Sets of held-out questions about composed pictures, encoded once for every way of running the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.bench.reproduce.design import Questions
from tokenry.data.questions.examples import Example, load_scenes, region_mask
from tokenry.data.scenes.scenes import Box
from tokenry.hosts import Encoded, Host, encode_pictures
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.tokens import InputError, Needs


@dataclass(frozen=True, eq=False)
class Round:
    """One question about each picture of a set.

    Attributes:
        examples: the questions.
        inputs: the batch, without pixels.
        asked: patches that the answers depend on.
    """

    examples: tuple[Example, ...]
    inputs: dict[str, Tensor]
    asked: Bool[np.ndarray, "pictures n"]


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """One seed's pictures, encoded, with their questions.

    Attributes:
        encoded: the pictures.
        rounds: the questions.
        objects: patches that show an object or a sign.
    """

    seed: int
    encoded: Encoded
    rounds: tuple[Round, ...]
    objects: Bool[np.ndarray, "pictures n"]


@dataclass(eq=False)
class QuestionSets:
    """The sets of a model, each encoded when it is first asked for and kept.

    Attributes:
        model: a vision-language model whose encoder has a [CLS] token and whose visual tokens form one square grid.
        processor: its processor.
    """

    model: PreTrainedModel
    processor: Any
    _known: dict[tuple[Questions, int], QuestionSet] = field(default_factory=dict, init=False, repr=False)

    def get(self, questions: Questions, seed: int) -> QuestionSet:
        """One seed's set."""
        if (questions, seed) not in self._known:
            with torch.inference_mode():
                self._known[questions, seed] = self._encode(questions, seed)
        return self._known[questions, seed]

    def _encode(self, questions: Questions, seed: int) -> QuestionSet:
        n = questions.pictures * questions.per_picture
        by_picture: dict[str, list[Example]] = defaultdict(list)
        for example in load_scenes("test", n, seed, questions.per_picture):
            by_picture[example.picture].append(example)
        groups = list(by_picture.values())
        if any(len(group) != questions.per_picture for group in groups):
            raise InputError(
                f"Not every scene admits {questions.per_picture} questions; ask fewer per picture."
            )
        batches = [self._batch([group[j] for group in groups]) for j in range(questions.per_picture)]
        host = Host.of(self.model)
        # Every block's [CLS] row, whatever method will want it.
        encoded = encode_pictures(host, batches[0], Needs(cls_layers=tuple(range(host.depth.encoder))))
        (pictures,) = encoded.pictures.values()
        grid = (int(pictures.grid[0, 1]), int(pictures.grid[0, 2]))
        rounds = []
        for j, batch in enumerate(batches):
            asked = tuple(group[j] for group in groups)
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
            rounds.append(Round(asked, inputs, _patches([e.regions for e in asked], asked, grid)))
        objects = _patches([g[0].objects for g in groups], [g[0] for g in groups], grid)
        return QuestionSet(seed, encoded, tuple(rounds), objects)

    def _batch(self, asked: Sequence[Example]) -> dict[str, Tensor]:
        batch = self.processor(
            images=[e.image for e in asked],
            text=[PROMPT.format(question=e.question) for e in asked],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        return {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in batch.items()}


def _patches(
    boxes: Sequence[tuple[Box, ...]], asked: Sequence[Example], grid: tuple[int, int]
) -> Bool[np.ndarray, "pictures n"]:
    return np.stack(
        [
            region_mask(b, (e.image.height, e.image.width), grid).reshape(-1)
            for b, e in zip(boxes, asked, strict=True)
        ]
    )
