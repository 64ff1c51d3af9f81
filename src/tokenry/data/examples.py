"""Picture questions in one shape: built-in scenes or a user's own folder, and how an answer is judged."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from tokenry.data.pictures import Picture, open_picture
from tokenry.data.question_files import READERS, asked, read_records
from tokenry.data.scenes import Box, make_scene
from tokenry.tokens.errors import InputError, TokenryError

QUESTION_FILES = tuple(f"questions{ending}" for ending in READERS)


@dataclass(frozen=True)
class Example:
    """One question about a picture, or several.

    Attributes:
        id: stable name.
        pictures: what is asked about, in the order in which the model sees them.
        question: text put to the model, without image placeholder.
        answer: the reference answer, of several the one given most often; None if the data set has none.
        kind: question kind ("place", "count", ...); "" if unknown.
        regions: pixel boxes (x0, y0, x1, y1) of the only picture on which the answer depends; empty if unknown.
        objects: pixel boxes of everything that is not background; empty if unknown.
        answers: all references where there are several, as often as they were given (ten people's answers, say).
        choices: the options of a multiple-choice question, in order; none where the answer is free.
    """

    id: str
    pictures: tuple[Picture, ...]
    question: str
    answer: str | None
    kind: str = ""
    regions: tuple[Box, ...] = ()
    objects: tuple[Box, ...] = ()
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def picture(self) -> str:
        """Name of what is asked about: examples that share it succeed and fail together."""
        return " + ".join(picture.name for picture in self.pictures)

    @property
    def image(self) -> Image.Image:
        """The first picture, opened.

        Raises:
            InputError: it cannot be read.
        """
        return self.pictures[0].open()

    @property
    def references(self) -> tuple[str, ...]:
        """What a prediction may equal to be right, each once."""
        one = () if self.answer is None else (self.answer,)
        return tuple(dict.fromkeys(self.answers or one))


@dataclass(frozen=True)
class FolderReport:
    """What :func:`load_folder` read and what it left out.

    Attributes:
        examples: the usable questions, in file order.
        skipped: one line for each thing left out: what, and why.
    """

    examples: tuple[Example, ...]
    skipped: tuple[str, ...]


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends and no leading article."""
    text = re.sub(r"\s+", " ", text).strip().lower().strip(" .,;:!?\"'")
    return re.sub(r"^(?:a|an|the) (?=.)", "", text)


def exact_match(prediction: str, answer: str) -> bool:
    """Whether two answers are the same after :func:`normalise_answer`."""
    return normalise_answer(prediction) == normalise_answer(answer)


def region_mask(
    boxes: tuple[Box, ...], size: tuple[int, int], grid: tuple[int, int], share: float = 0.25
) -> Bool[np.ndarray, "h w"]:
    """Grid cells of which at least ``share`` is covered by one of the boxes.

    Args:
        boxes: pixel boxes (x0, y0, x1, y1).
        size: (height, width) of the picture in pixels.
        grid: (rows, columns) of visual tokens laid over the picture.
        share: least covered share of a cell's area.

    Returns:
        Boolean mask; all False without boxes.
    """
    mask = np.zeros(grid, dtype=bool)
    edges_y = np.linspace(0, size[0], grid[0] + 1)
    edges_x = np.linspace(0, size[1], grid[1] + 1)
    for x0, y0, x1, y1 in boxes:
        rows = np.clip(np.minimum(edges_y[1:], y1) - np.maximum(edges_y[:-1], y0), 0, None)
        columns = np.clip(np.minimum(edges_x[1:], x1) - np.maximum(edges_x[:-1], x0), 0, None)
        area = (size[0] / grid[0]) * (size[1] / grid[1])
        mask |= np.outer(rows, columns) >= share * area
    return mask


def load_scenes(split: str = "test", n: int = 1000, seed: int = 0, per_scene: int = 4) -> list[Example]:
    """Questions about built-in scenes.

    Args:
        split: "train", "val" or "test"; see :mod:`tokenry.data.scenes` for how they are kept apart.
        n: number of questions.
        seed: another seed gives other scenes of the same split.
        per_scene: questions asked about each scene, all of different kinds; the examples share the picture.

    Returns:
        ``n`` examples, in a fixed order.

    Raises:
        TokenryError: if ``n`` or ``per_scene`` is not positive, or the split is unknown.
    """
    if n < 1 or per_scene < 1:
        raise TokenryError(f"n and per_scene must be at least 1, got n={n}, per_scene={per_scene}")
    examples: list[Example] = []
    index = 0
    while len(examples) < n:
        scene = make_scene(split, index, seed)
        picture = Picture(f"{split}-{seed}-{index}", scene.image)
        for question in scene.ask(min(per_scene, n - len(examples))):
            examples.append(
                Example(
                    id=f"{picture.name}-{question.kind}",
                    pictures=(picture,),
                    question=question.text,
                    answer=question.answer,
                    kind=question.kind,
                    regions=question.regions,
                    objects=scene.boxes,
                )
            )
        index += 1
    return examples


def load_folder(path: str | Path) -> FolderReport:
    """Read a folder with pictures and a ``questions.jsonl`` or ``questions.csv`` (image, question, answer, kind).

    ``answer`` and ``kind`` may be missing. Instead of one text, ``answer`` or ``answers`` may hold a list of them, or
    of objects with an ``answer`` each: all of them are references. Whatever cannot be used - a truncated picture, a
    stray file, a line without a question, a row with more cells than columns - is left out and named in the report.

    Args:
        path: the folder.

    Returns:
        The examples and what was skipped.

    Raises:
        TokenryError: if the folder or its question file is missing or unreadable, or nothing in it can be used.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise TokenryError(f"{folder} is not a folder")
    source = next((folder / name for name in QUESTION_FILES if (folder / name).is_file()), None)
    if source is None:
        raise TokenryError(
            f"{folder} has no {' or '.join(QUESTION_FILES)}: one line for each question, with image, question, answer"
        )
    examples: list[Example] = []
    skipped: list[str] = []
    images: dict[str, Image.Image | None] = {}
    for record in read_records(source):
        place = f"{source.name}:{record.number}"
        try:
            found = asked(record)
        except InputError as error:
            skipped.append(f"{place}: {error}")
            continue
        if found.image not in images:
            images[found.image] = _open(folder, found.image, skipped)
        image = images[found.image]
        if image is None:
            skipped.append(f"{place}: picture {found.image} cannot be used")
            continue
        examples.append(
            Example(
                id=place,
                pictures=(Picture(found.image, image),),
                question=found.question,
                answer=found.answer,
                kind=found.kind,
                answers=found.answers if len(found.answers) > 1 else (),
            )
        )
    known = set(images) | {source.name}
    skipped += [
        f"{entry.name}: no question asks about it"
        for entry in sorted(folder.iterdir())
        if entry.is_file() and entry.name not in known
    ]
    if not examples:
        detail = f"; first reason: {skipped[0]}" if skipped else ""
        raise TokenryError(f"{folder} has no usable question ({len(skipped)} skipped{detail})")
    return FolderReport(tuple(examples), tuple(skipped))


def _open(folder: Path, name: str, skipped: list[str]) -> Image.Image | None:
    """The picture, or None with the reason noted."""
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        skipped.append(f"{name}: lies outside the folder")
        return None
    try:
        return open_picture(target)
    except InputError as error:
        skipped.append(f"{name}: {error}")
        return None
