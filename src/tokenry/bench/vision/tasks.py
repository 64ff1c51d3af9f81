"""Segmentation and depth of composed scenes, and the category of stamps, as evaluation tasks.

A subject is whatever turns a picture into a prediction: heads on the features of a tower, at full tokens or fewer, or a
floor that looks at nothing. Truth comes free with the generator of scenes; stamps are those of the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from tokenry.bench.task import Task
from tokenry.data.images.stamps import Stamp, load_stamps
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.maps import pixel_class_names, pixel_classes, pixel_depth
from tokenry.data.scenes.scenes import Scene
from tokenry.data.scenes.style import LARGE, OVERLAPPING, SceneStyle
from tokenry.tokens.errors import InputError


@dataclass(frozen=True)
class SegmentationTask(Task[str, Scene, Int[Tensor, "h w"]]):
    """What each pixel of a scene shows: background, an object of one of eight groups, or a sign.

    A picture's score is its IoU, averaged over the classes that are in it or were said to be; `overall` is the usual
    mIoU, over the pixels of all pictures.

    Attributes:
        subjects: by name, what gives a class for each pixel, by its position in `tokenry.data.pixel_class_names`.
        style: of the scenes.
        count: of scenes.
        seed: of the scenes.
    """

    name: ClassVar[str] = "segmentation"  # type: ignore[misc]
    metric: ClassVar[str] = "mIoU"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = True  # type: ignore[misc]

    subjects: Mapping[str, Callable[[Image.Image], Int[Tensor, "h w"]]]
    style: SceneStyle = LARGE
    count: int = 200
    seed: int = 0

    def items(self, limit: int | None = None) -> Sequence[Scene]:
        """Scenes of the test split."""
        return _scenes(self.style, self.count if limit is None else min(limit, self.count), self.seed)

    def run(self, subject: str, item: Scene) -> Int[Tensor, "h w"]:
        """The class that a subject gives each pixel."""
        found = _map(self.subjects[subject](item.image), item, subject)
        classes = len(pixel_class_names())
        if len(odd := found[(found < 0) | (found >= classes)]):
            raise InputError(
                f"{subject!r} predicts class {int(odd[0])}, and scenes have {classes}: give their positions in "
                "tokenry.data.pixel_class_names()."
            )
        return found

    def score(self, output: Int[Tensor, "h w"], item: Scene) -> float:
        """IoU averaged over the classes that are there or were said to be."""
        return _mean_iou(_confusion(output, item))

    def overall(self, made: Iterable[tuple[Scene, Int[Tensor, "h w"]]]) -> float:
        """IoU over the pixels of all pictures, averaged over classes."""
        return _mean_iou(np.sum([_confusion(output, item) for item, output in made], axis=0))


@dataclass(frozen=True)
class DepthTask(Task[str, Scene, Float[Tensor, "h w"]]):
    """How high each pixel of a scene lies, as far as it shows (`tokenry.data.pixel_depth`).

    Attributes:
        subjects: by name, what gives a depth for each pixel.
        style: of the scenes: one in which objects lie on each other.
        count: of scenes.
        seed: of the scenes.
    """

    name: ClassVar[str] = "depth"  # type: ignore[misc]
    metric: ClassVar[str] = "RMSE"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = False  # type: ignore[misc]

    subjects: Mapping[str, Callable[[Image.Image], Float[Tensor, "h w"]]]
    style: SceneStyle = OVERLAPPING
    count: int = 200
    seed: int = 0

    def items(self, limit: int | None = None) -> Sequence[Scene]:
        """Scenes of the test split."""
        return _scenes(self.style, self.count if limit is None else min(limit, self.count), self.seed)

    def run(self, subject: str, item: Scene) -> Float[Tensor, "h w"]:
        """The depth that a subject gives each pixel."""
        return _map(self.subjects[subject](item.image), item, subject)

    def score(self, output: Float[Tensor, "h w"], item: Scene) -> float:
        """Root of the mean squared error over the pixels."""
        return self.overall([(item, output)])

    def overall(self, made: Iterable[tuple[Scene, Float[Tensor, "h w"]]]) -> float:
        """The same over the pixels of all pictures, which are of one size."""
        squares = [np.square(output.double().numpy() - pixel_depth(item)).mean() for item, output in made]
        return float(np.sqrt(np.mean(squares)))


@dataclass(frozen=True)
class ClassificationTask(Task[str, Stamp, str]):
    """What a stamp shows: one of the categories of Tux Paint's stamps.

    Attributes:
        subjects: by name, what gives the category of a picture.
        stamps: the collection, of which the test split is asked; by default fetched the first time.
    """

    name: ClassVar[str] = "classification"  # type: ignore[misc]
    metric: ClassVar[str] = "accuracy"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = True  # type: ignore[misc]

    subjects: Mapping[str, Callable[[Image.Image], str]]
    stamps: Sequence[Stamp] | None = None

    @cached_property
    def _tested(self) -> list[Stamp]:
        known = load_stamps() if self.stamps is None else self.stamps
        return [stamp for stamp in known if stamp.split == "test"]

    def items(self, limit: int | None = None) -> Sequence[Stamp]:
        """Stamps of the test split."""
        return self._tested[:limit]

    def run(self, subject: str, item: Stamp) -> str:
        """The category that a subject gives."""
        return self.subjects[subject](item.image())

    def score(self, output: str, item: Stamp) -> float:
        """1 for the stamp's own category, else 0."""
        return float(output == item.category)

    def overall(self, made: Iterable[tuple[Stamp, str]]) -> float:
        """The share of the stamps that are classified rightly."""
        return float(np.mean([self.score(output, item) for item, output in made]))


def _scenes(style: SceneStyle, count: int, seed: int) -> list[Scene]:
    return [make_scene("test", index, seed, style) for index in range(count)]


def _map(found: Tensor, item: Scene, subject: str) -> Tensor:
    """A prediction for each pixel, as that.

    Raises:
        InputError: it is of another size than the picture.
    """
    if found.shape != item.owner.shape:
        raise InputError(
            f"{subject!r} predicts a map of {' x '.join(map(str, found.shape))} for a picture of {item.style.side} x "
            f"{item.style.side}: give a value for each pixel."
        )
    return found.cpu()


def _confusion(output: Int[Tensor, "h w"], item: Scene) -> Int[np.ndarray, "c c"]:
    """How many pixels of each class (row) were given which (column)."""
    classes = len(pixel_class_names())
    truth = torch.from_numpy(pixel_classes(item)).long()
    counts = torch.bincount((truth * classes + output.long()).flatten(), minlength=classes**2)
    return counts.reshape(classes, classes).numpy()


def _mean_iou(confusion: Int[np.ndarray, "c c"]) -> float:
    """Intersection over union, averaged over the classes of which there is any pixel, in truth or prediction."""
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float((both[either > 0] / either[either > 0]).mean())
