"""Test beds: a model with questions whose answers lie in known regions of their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenry.bench.reducers.data import scenes_of
from tokenry.bench.reducers.prompts import Template
from tokenry.bench.reproduce.vqa.places import is_tiled
from tokenry.bench.reproduce.vqa.question_sets import Group, QuestionSet, by_picture
from tokenry.catalog import card
from tokenry.data.questions.examples import Example, load_scenes
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.style import STYLES, SceneStyle
from tokenry.hosts import Host
from tokenry.hosts.upstream import picture_grids
from tokenry.models.load import load
from tokenry.tokens import InputError

SPATIAL: Final = ("where", "relation")
"""Kinds of questions about scenes whose answers are told by position ids."""
PER_SCENE: Final = 4
_LARGE: Final = 50_000_000
"""Parameters from which a question costs a third of a second and more on a CPU."""
_TOKENS: Final = 64 * 144
"""Visual tokens of a batch: more are no faster on a CPU, and take memory."""


@dataclass(frozen=True, eq=False)
class Bed:
    """A model that methods are judged on, with the questions that it is asked.

    Attributes:
        name: what it is called in results.
        model: any model that reads pictures and can be given encoded ones.
        processor: its processor.
        examples: questions about one picture each, with the regions that the answers depend on.
        template: how a question is put; the processor's own prompt is around it.
        names: what things in the pictures may be called; empty leaves out whether visual tokens resemble names.
        spatial: kinds of questions that ask for a place.
        scenes: what the pictures are, in words.
    """

    name: str
    model: Any
    processor: Any
    examples: Sequence[Example]
    template: Template = field(default_factory=Template)
    names: tuple[str, ...] = ()
    spatial: tuple[str, ...] = SPATIAL
    scenes: str = ""

    def __post_init__(self) -> None:
        if not self.examples:
            raise InputError(f"The test bed {self.name!r} has no questions: give it examples with answers.")

    @property
    def host(self) -> Host:
        """The model as tokenry sees it."""
        return Host.of(self.model)

    @property
    def large(self) -> bool:
        """Whether questions take long."""
        return is_large(self.model)

    @cached_property
    def batches(self) -> tuple[tuple[Group, ...], ...]:
        """The questions by picture, in batches of pictures with as many questions each."""
        groups = by_picture(self.examples)
        size = max(1, (_TOKENS // 2 if self.large else _TOKENS) // self.sample.lengths[0])
        found = []
        for count in sorted({len(group) for group in groups}, reverse=True):
            alike = [group for group in groups if len(group) == count]
            found += [tuple(alike[i : i + size]) for i in range(0, len(alike), size)]
        return tuple(found)

    @cached_property
    def sample(self) -> QuestionSet:
        """The first question, encoded: what tells how the model lays out a picture."""
        return QuestionSet.of(self.model, self.processor, [(self.examples[0],)], template=self.template)

    @property
    def knows_places(self) -> bool:
        """Whether it is known which visual token is which patch, and where the answers lie."""
        return self.sample.placed and any(example.regions for example in self.examples)

    @property
    def tiled(self) -> bool:
        """Whether pictures are cut into a thumbnail and crops."""
        return is_tiled(next(iter(self.sample.encoded.pictures.values())), 0)

    @property
    def any_size(self) -> bool:
        """Whether pictures keep their size: the encoder has as many tokens as they have patches."""
        return picture_grids(self.sample.encoded.inputs) is not None


def open_bed(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    style: SceneStyle | None = None,
    n: int | None = None,
    seed: int = 0,
) -> Bed:
    """The test bed of a model by name: the model, with questions about the scenes that its card says it knows.

    Args:
        name: a model of `tokenry.load` that has a card.
        checkpoint: a folder with other weights of it, such as those of another seed.
        style: other scenes than the card's.
        n: questions; by default 1,000, and 400 of a model that takes long.
        seed: of the scenes, which are held-out ones.

    Raises:
        InputError: the card names no scenes.
        UnknownNameError: there is no such card.
    """
    style = _known_scenes(name) if style is None else style
    model, processor = load(checkpoint or name, reads="pictures")
    return scene_bed(name, model, processor, style, n=n, seed=seed)


def scene_bed(
    name: str, model: Any, processor: Any, style: SceneStyle, *, n: int | None = None, seed: int = 0
) -> Bed:
    """A test bed of held-out scenes, for any model.

    Args:
        name: what it is called in results.
        model, processor: the model.
        style: of the scenes.
        n: questions; see `open_bed`.
        seed: of the scenes.
    """
    n = n or (400 if is_large(model) else 1000)
    return Bed(
        name,
        model,
        processor,
        tuple(load_scenes("test", n, seed, PER_SCENE, style)),
        names=tuple(one.name for one in load_pack().objects),
        scenes=f"{style.name} scenes of {style.side} pixels, seed {seed}",
    )


def _known_scenes(name: str) -> SceneStyle:
    """The style of the scenes that a model knows.

    Raises:
        InputError: its card says none.
        UnknownNameError: there is no such card.
    """
    if (found := scenes_of(card(name).slug)) is not None:
        return found
    raise InputError(
        f"The card of {name!r} does not say which scenes the model knows: let it name one of "
        f"{', '.join(style.name for style in STYLES)}, or give a style."
    )


def is_large(model: Any) -> bool:
    """Whether a question takes a third of a second and more on a CPU."""
    return sum(p.numel() for p in model.parameters()) >= _LARGE
