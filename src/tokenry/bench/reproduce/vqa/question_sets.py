"""Sets of questions about pictures, encoded once for every way of running the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from transformers import PreTrainedModel

from tokenry.bench.reducers.prompts import Template
from tokenry.bench.reproduce.design import Questions
from tokenry.bench.reproduce.vqa.places import token_cover
from tokenry.data.questions.examples import COVERED, Example, load_scenes
from tokenry.data.scenes.scenes import Box
from tokenry.hosts import Encoded, Host, encode_pictures, pixels_of, question_inputs, visual_kinds
from tokenry.tokens import InputError, Needs

Group = tuple[Example, ...]
"""The questions about one picture."""


@dataclass(frozen=True)
class Showing:
    """A way of showing pictures to a model: this one, as they are."""

    def image(self, image: Image.Image) -> Image.Image:
        """The picture that is shown in place of one."""
        return image

    def processor(self, processor: Any) -> Any:
        """The processor that makes the inputs; a copy where it is not the model's own."""
        return processor

    def around(self, host: Host) -> AbstractContextManager[None]:
        """What pictures are encoded within."""
        return nullcontext()


@dataclass(frozen=True, eq=False)
class Round:
    """One question about each picture of a set.

    Attributes:
        examples: the questions.
        inputs: the batch, without pixels.
        text: tokens of each prompt that are not visual.
        cover: share of each visual token's patch that the regions of the answer cover; 0 where places are not known.
    """

    examples: tuple[Example, ...]
    inputs: dict[str, Any]
    text: Float[np.ndarray, " pictures"]
    cover: Float[np.ndarray, "pictures n"]

    @property
    def asked(self) -> Bool[np.ndarray, "pictures n"]:
        """Patches that the answers depend on."""
        return self.cover >= COVERED


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """Pictures, encoded, with their questions: as many about each.

    Attributes:
        seed: a number of the set.
        encoded: the pictures.
        lengths: visual tokens of each picture.
        rounds: the questions.
        objects: patches that show an object or a sign.
        placed: whether it is known of every picture which token is which patch.
    """

    seed: int
    encoded: Encoded
    lengths: tuple[int, ...]
    rounds: tuple[Round, ...]
    objects: Bool[np.ndarray, "pictures n"]
    placed: bool

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        processor: Any,
        groups: Sequence[Group],
        *,
        seed: int = 0,
        template: Template | None = None,
        showing: Showing | None = None,
    ) -> QuestionSet:
        """Encode pictures, and lay out their questions.

        Args:
            model: any model that reads pictures and can be given encoded ones.
            processor: its processor.
            groups: the questions about each picture, as many about each; every question is about one picture.
            seed: a number of the set.
            template: how a question is put.
            showing: how its picture is shown.

        Raises:
            UnsupportedError: the model cannot take pictures that are already encoded, or not as they are shown.
            InputError: a picture cannot be read, or there are several in a question.
        """
        template, showing = template or Template(), showing or Showing()
        if several := [e.id for group in groups for e in group if len(e.pictures) != 1]:
            raise InputError(
                f"Question {several[0]!r} is about several pictures, and here each question is about one: leave it out."
            )
        host, shown = Host.of(model), [showing.image(group[0].image) for group in groups]
        prepare = showing.processor(processor)
        batches = [
            question_inputs(
                model, prepare, [[image] for image in shown], [template.apply(e).question for e in asked]
            )
            for asked in zip(*groups, strict=True)
        ]
        # Every block's [CLS] row, whatever method will want it.
        needs = Needs(cls_layers=tuple(range(host.depth.encoder))) if host.has_cls else Needs()
        with torch.inference_mode(), showing.around(host):
            encoded = encode_pictures(host, batches[0], needs)
        (pictures,) = encoded.pictures.values()

        def cover(boxes: Sequence[Sequence[Box]]) -> tuple[Float[np.ndarray, "pictures n"], bool]:
            # Regions are told in the pixels of the example's own picture.
            sizes = [(group[0].image.height, group[0].image.width) for group in groups]
            found = [token_cover(pictures, i, b, sizes[i]) for i, b in enumerate(boxes)]
            whole = np.zeros((len(found), max(pictures.lengths)))
            for row, values in zip(whole, found, strict=True):
                if values is not None:
                    row[: len(values)] = values
            return whole, all(values is not None for values in found)

        rounds = []
        for asked, batch in zip(zip(*groups, strict=True), batches, strict=True):
            inputs = {k: v for k, v in batch.items() if k not in pixels_of(batch)}
            (visual,) = visual_kinds(host, batch["input_ids"], batch).values()
            text = (batch["attention_mask"].sum(1) - visual.sum(1)).cpu().numpy().astype(np.float64)
            rounds.append(Round(asked, inputs, text, cover([e.regions for e in asked])[0]))
        objects, placed = cover([group[0].objects for group in groups])
        lengths = tuple(pictures.lengths)
        return cls(seed, encoded, lengths, tuple(rounds), objects >= COVERED, placed)


def by_picture(examples: Sequence[Example]) -> list[Group]:
    """The questions about each picture, pictures in the order in which they are first asked about."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.picture].append(example)
    return [tuple(group) for group in groups.values()]


@dataclass(eq=False)
class QuestionSets:
    """Sets of questions about scenes, each encoded when it is first asked for and kept.

    Attributes:
        model: a model that reads pictures.
        processor: its processor.
    """

    model: PreTrainedModel
    processor: Any
    _known: dict[tuple[Questions, int], QuestionSet] = field(default_factory=dict, init=False, repr=False)

    def get(self, questions: Questions, seed: int) -> QuestionSet:
        """One seed's set.

        Raises:
            InputError: some scene does not admit as many questions.
        """
        if (questions, seed) not in self._known:
            n = questions.pictures * questions.per_picture
            groups = by_picture(load_scenes("test", n, seed, questions.per_picture))
            if any(len(group) != questions.per_picture for group in groups):
                raise InputError(
                    f"Not every scene admits {questions.per_picture} questions; ask fewer per picture."
                )
            self._known[questions, seed] = QuestionSet.of(self.model, self.processor, groups, seed=seed)
        return self._known[questions, seed]
