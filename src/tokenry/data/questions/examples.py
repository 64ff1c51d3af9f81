"""Picture questions in one shape: built-in scenes or a user's own folder, and how an answer is judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from tokenry.data.images.pictures import Picture, PictureFolder, shown
from tokenry.data.questions.files import find_question_file
from tokenry.data.questions.layouts import read_records
from tokenry.data.questions.reading import asked
from tokenry.data.scenes.clips import make_clip
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.pages import make_page
from tokenry.data.scenes.scenes import Box, Question
from tokenry.data.scenes.style import SMALL, SceneStyle
from tokenry.tokens.errors import InputError, TokenryError

COVERED = 0.25
"""Least share of a visual token's patch that a region covers, for the token to count as part of it."""
Pixels: TypeAlias = int | float
_NAMED = 3  # places that a report names for each reason


@dataclass(frozen=True, init=False)
class Example:
    """One question about a picture, several, or a video.

    ``Example("1", "cat.png", image, "what is it?", "a cat")`` is a question about one picture, given as it is or as the
    path of its file; several are `Picture`s: ``Example("1", pictures=(before, after), question=...)``.

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
        video: whether the pictures are the frames of one video, in their order.
        frame_regions: of a video, for each frame the pixel boxes on which the answer depends; empty if unknown.
    """

    id: str
    pictures: tuple[Picture, ...]
    question: str
    answer: str | None
    kind: str
    regions: tuple[Box, ...]
    objects: tuple[Box, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    video: bool
    frame_regions: tuple[tuple[Box, ...], ...]

    def __init__(
        self,
        id: str,
        picture: str | None = None,
        image: Image.Image | str | Path | None = None,
        question: str = "",
        answer: str | None = None,
        kind: str = "",
        regions: tuple[Box, ...] = (),
        objects: tuple[Box, ...] = (),
        answers: tuple[str, ...] = (),
        choices: tuple[str, ...] = (),
        *,
        pictures: Sequence[Picture] = (),
        video: bool = False,
        frame_regions: tuple[tuple[Box, ...], ...] = (),
    ) -> None:
        """Put a question.

        Args:
            picture, image: name and content of the only picture, in place of `pictures`; the name is by default that of
                the picture in whose place it is put, or the question's.
            id, question, answer, kind, regions, objects, answers, choices, pictures, video, frame_regions: the
                attributes.
        """
        if image is not None:
            name = picture or (pictures[0].name if pictures else id)
            pictures = (Picture(name, image if isinstance(image, Image.Image) else Path(image)),)
        values = {
            "id": id,
            "pictures": tuple(pictures),
            "question": question,
            "answer": answer,
            "kind": kind,
            "regions": regions,
            "objects": objects,
            "answers": answers,
            "choices": choices,
            "video": video,
            "frame_regions": frame_regions,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

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
class Skipped:
    """Things of a folder that were left out for the same reason.

    Attributes:
        reason: why.
        count: how many they are.
        places: the first few of them: a file and line, or the name of a file.
    """

    reason: str
    count: int
    places: tuple[str, ...]

    @classmethod
    def of(cls, reason: str, places: Sequence[str]) -> Skipped:
        """What is told of all things that were left out for a reason."""
        return cls(reason, len(places), tuple(map(shown, places[:_NAMED])))

    def __str__(self) -> str:
        """One line for a terminal."""
        more = f" and {self.count - len(self.places):,} more" if self.count > len(self.places) else ""
        return f"{', '.join(self.places)}{more}: {self.reason}"


@dataclass(frozen=True)
class FolderReport:
    """What :func:`load_folder` read and what it left out.

    Attributes:
        examples: the usable questions, in file order.
        skipped: what was left out, one entry for each reason.
    """

    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]


def normalise_answer(text: str) -> str:
    """Lower case, single spaces, no punctuation at the ends and no leading article."""
    text = re.sub(r"\s+", " ", text).strip().lower().strip(" .,;:!?\"'")
    return re.sub(r"^(?:a|an|the) (?=.)", "", text)


def exact_match(prediction: str, answer: str) -> bool:
    """Whether two answers are the same after :func:`normalise_answer`."""
    return normalise_answer(prediction) == normalise_answer(answer)


def region_cover(
    boxes: Sequence[tuple[Pixels, Pixels, Pixels, Pixels]],
    size: tuple[Pixels, Pixels],
    grid: tuple[int, int],
) -> Float[np.ndarray, "h w"]:
    """The share of each grid cell that one of the boxes covers: the largest, where several do.

    Args:
        boxes: pixel boxes (x0, y0, x1, y1).
        size: (height, width) of the picture in pixels.
        grid: (rows, columns) of visual tokens laid over the picture.

    Returns:
        Shares from 0 to 1; all 0 without boxes.
    """
    cover = np.zeros(grid)
    edges_y = np.linspace(0, size[0], grid[0] + 1)
    edges_x = np.linspace(0, size[1], grid[1] + 1)
    area = (size[0] / grid[0]) * (size[1] / grid[1])
    for x0, y0, x1, y1 in boxes:
        rows = np.clip(np.minimum(edges_y[1:], y1) - np.maximum(edges_y[:-1], y0), 0, None)
        columns = np.clip(np.minimum(edges_x[1:], x1) - np.maximum(edges_x[:-1], x0), 0, None)
        cover = np.maximum(cover, np.outer(rows, columns) / area)
    return cover


def region_mask(
    boxes: Sequence[Box], size: tuple[int, int], grid: tuple[int, int], share: float = COVERED
) -> Bool[np.ndarray, "h w"]:
    """Grid cells of which at least ``share`` is covered by one of the boxes.

    Args:
        boxes, size, grid: see `region_cover`.
        share: least covered share of a cell's area.

    Returns:
        Boolean mask; all False without boxes.
    """
    return region_cover(boxes, size, grid) >= share


def load_scenes(
    split: str = "test", n: int = 1000, seed: int = 0, per_scene: int = 4, style: SceneStyle = SMALL
) -> list[Example]:
    """Questions about built-in scenes.

    Args:
        split: "train", "val" or "test"; see :mod:`tokenry.data.scenes.scenes` for how they are kept apart.
        n: number of questions.
        seed: another seed gives other scenes of the same split.
        per_scene: questions asked about each scene, all of different kinds; the examples share the picture.
        style: how scenes are drawn: `SMALL` is what the embedded model knows.

    Returns:
        ``n`` examples, in a fixed order.

    Raises:
        TokenryError: if ``n`` or ``per_scene`` is not positive, or the split is unknown.
    """

    def asked(index: int, number: int) -> Iterator[Example]:
        scene = make_scene(split, index, seed, style)
        picture = Picture(f"{split}-{seed}-{index}", scene.image)
        return _about(picture, scene.ask(number), scene.boxes)

    return _first(n, per_scene, asked, "per_scene")


def load_pages(split: str = "test", n: int = 1000, seed: int = 0, per_page: int = 4) -> list[Example]:
    """Questions about drawn pages of text (:mod:`tokenry.data.scenes.pages`).

    Args:
        split: "train", "val" or "test".
        n: number of questions.
        seed: another seed gives other pages of the same split.
        per_page: questions asked about each page, all of different kinds; the examples share the picture.

    Returns:
        ``n`` examples, in a fixed order.

    Raises:
        TokenryError: if ``n`` or ``per_page`` is not positive, or the split is unknown.
    """

    def asked(index: int, number: int) -> Iterator[Example]:
        page = make_page(split, index, seed)
        picture = Picture(f"page-{split}-{seed}-{index}", page.image)
        return _about(picture, page.ask(number), page.boxes)

    return _first(n, per_page, asked, "per_page")


def load_clips(split: str = "test", n: int = 1000, seed: int = 0, per_clip: int = 4) -> list[Example]:
    """Questions about short clips (:mod:`tokenry.data.scenes.clips`): videos whose frames are the pictures.

    Args:
        split: "train", "val" or "test".
        n: number of questions.
        seed: another seed gives other clips of the same split.
        per_clip: questions asked about each clip, all of different kinds; the examples share the frames.

    Returns:
        ``n`` examples, in a fixed order.

    Raises:
        TokenryError: if ``n`` or ``per_clip`` is not positive, or the split is unknown.
    """

    def asked(index: int, number: int) -> Iterator[Example]:
        clip = make_clip(split, index, seed)
        name = f"clip-{split}-{seed}-{index}"
        frames = tuple(Picture(f"{name}.{i}", frame) for i, frame in enumerate(clip.images))
        for question in clip.ask(number):
            yield Example(
                id=f"{name}-{question.kind}",
                pictures=frames,
                question=question.text,
                answer=question.answer,
                kind=question.kind,
                video=True,
                frame_regions=question.regions,
            )

    return _first(n, per_clip, asked, "per_clip")


def _about(picture: Picture, questions: Sequence[Question], objects: tuple[Box, ...]) -> Iterator[Example]:
    """Questions about one picture, as examples."""
    for question in questions:
        yield Example(
            id=f"{picture.name}-{question.kind}",
            pictures=(picture,),
            question=question.text,
            answer=question.answer,
            kind=question.kind,
            regions=question.regions,
            objects=objects,
        )


def _first(n: int, each: int, asked: Callable[[int, int], Iterator[Example]], name: str) -> list[Example]:
    """The first ``n`` examples of as many pictures as it takes, with up to ``each`` of one.

    Args:
        n: how many.
        each: of one picture.
        asked: (which picture, how many questions) -> its examples.
        name: of the argument `each`, for a message.
    """
    if n < 1 or each < 1:
        raise TokenryError(f"`n` and `{name}` must be at least 1, got n={n}, {name}={each}")
    examples: list[Example] = []
    index = 0
    while len(examples) < n:
        examples += asked(index, min(each, n - len(examples)))
        index += 1
    return examples


def load_folder(path: str | Path, limit: int | None = None) -> FolderReport:
    """Read a folder with pictures and a file of questions, such as ``questions.jsonl`` or ``questions.csv``.

    Formats, layouts and names of columns that are understood: `question_files.FORMATS`, `question_layouts.LAYOUTS`,
    `question_columns.COLUMNS`. Pictures are looked for in the folder and opened only when a question about them is put,
    so a damaged one is told then. Whatever cannot be used - a line without a question, a row with more cells than
    columns, a picture that does not exist or lies outside the folder - is left out and named in the report.

    Args:
        path: the folder, or the question file in it.
        limit: at most so many questions; the rest of the file is not read.

    Returns:
        The examples and what was skipped.

    Raises:
        InputError: if the folder or its question file is missing or unreadable, or nothing in it can be used.
    """
    source = find_question_file(Path(path))
    folder = PictureFolder(source.parent)
    examples: list[Example] = []
    ids: set[str] = set()
    skipped: dict[str, list[str]] = {}
    for record in read_records(source):
        try:
            found = asked(record)
            pictures = tuple(folder.picture(name) for name in found.images)
        except InputError as error:
            skipped.setdefault(shown(str(error)), []).append(record.place)
            continue
        name = found.id or record.place
        if name in ids:  # in some data sets several questions share an id (MME's are pictures)
            name += f" ({record.place})"
        ids.add(name)
        examples.append(
            Example(
                id=shown(name),
                pictures=pictures,
                question=found.question,
                answer=found.answer,
                kind=found.kind,
                answers=found.answers if len(found.answers) > 1 else (),
                choices=found.choices,
            )
        )
        if len(examples) == limit:
            break
    else:
        if examples and (strays := folder.strays()):
            skipped["no question asks about it"] = strays
    report = FolderReport(tuple(examples), tuple(Skipped.of(*one) for one in skipped.items()))
    if not examples:
        count = sum(one.count for one in report.skipped)
        reason = f"{count:,} skipped; first reason: {report.skipped[0]}" if count else "it has no rows"
        raise InputError(f"{str(source)!r} has no usable question ({reason}).")
    return report
