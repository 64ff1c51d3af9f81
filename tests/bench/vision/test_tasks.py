"""Segmentation, depth and classification as tasks: scores by hand, floors, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tokenry.bench.run import measure
from tokenry.bench.task import Task
from tokenry.bench.vision import ClassificationTask, DepthTask, SegmentationTask
from tokenry.data.images.stamps import Stamp
from tokenry.data.scenes.maps import pixel_classes, pixel_depth
from tokenry.data.scenes.style import OVERLAPPING, SMALL
from tokenry.tokens.errors import InputError


def _nothing(image: Image.Image) -> Tensor:
    return torch.zeros(image.height, image.width, dtype=torch.long)


def test_what_is_right_scores_one_and_background_everywhere_its_share() -> None:
    task = SegmentationTask({"nothing": _nothing}, style=SMALL, count=3)
    assert isinstance(task, Task)
    made = measure(task, ["nothing"], tolerated=()).made["nothing"]
    assert [scene.split for scene, *_ in made] == ["test"] * 3
    for scene, output, score in made:
        truth = pixel_classes(scene)
        shown = np.unique(truth)
        assert score == pytest.approx((truth == 0).mean() / len(shown))
        assert task.score(torch.from_numpy(truth).long(), scene) == 1
        assert not output.any()
    right = [(scene, torch.from_numpy(pixel_classes(scene)).long()) for scene, *_ in made]
    assert task.overall(right) == 1


def test_overall_counts_pixels_of_all_pictures_by_class() -> None:
    task = SegmentationTask({}, style=SMALL, count=2)
    first, second = task.items()
    wrong = torch.from_numpy(pixel_classes(second)).long()
    wrong[wrong == 0] = 1
    truth = np.stack([pixel_classes(first), pixel_classes(second)])
    found = np.stack([pixel_classes(first), wrong.numpy()])
    classes = np.unique(truth) if 1 in truth else np.append(np.unique(truth), 1)
    expected = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in classes]
    made = [(first, torch.from_numpy(pixel_classes(first)).long()), (second, wrong)]
    assert task.overall(made) == pytest.approx(np.mean(expected))


def test_depth_is_the_root_of_the_mean_square() -> None:
    task = DepthTask({"nothing": _nothing}, count=2)
    assert task.style == OVERLAPPING
    assert not task.higher_is_better
    one, two = task.items()
    exact = torch.from_numpy(pixel_depth(one)).float()
    assert task.score(exact, one) == 0
    assert task.score(exact + 0.5, one) == pytest.approx(0.5)
    other = torch.from_numpy(pixel_depth(two)).float() + 1.5
    assert task.overall([(one, exact + 0.5), (two, other)]) == pytest.approx(np.sqrt((0.25 + 2.25) / 2))


def test_maps_of_another_size_are_refused() -> None:
    task = SegmentationTask({"coarse": lambda image: torch.zeros(16, 16)}, style=SMALL, count=1)
    with pytest.raises(InputError, match=r"'coarse' predicts a map of 16 x 16 for a picture of 96 x 96"):
        task.run("coarse", task.items()[0])


@pytest.mark.parametrize("wrong", [10, -1])
def test_classes_that_there_are_not_are_refused(wrong: int) -> None:
    task = SegmentationTask({"odd": lambda image: _nothing(image) + wrong}, style=SMALL, count=1)
    with pytest.raises(InputError, match=rf"'odd' predicts class {wrong}, and scenes have 10"):
        task.run("odd", task.items()[0])


def test_stamps_of_the_test_split_are_classified(tmp_path: Path) -> None:
    png = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(png)
    captions, silent = MappingProxyType({"en": "."}), MappingProxyType({})
    names = [f"{kind}/{letter}" for kind in ("food", "town") for letter in "abcdefghijkl"]
    stamps = [Stamp(name, png, None, captions, silent) for name in names]
    task = ClassificationTask({"food": lambda image: "food"}, stamps)
    tested = task.items()
    assert 2 <= len(tested) < len(stamps)
    assert {stamp.split for stamp in tested} == {"test"}
    assert task.items(1) == tested[:1]
    made = measure(task, ["food"], tolerated=()).made["food"]
    share = sum(stamp.category == "food" for stamp in tested) / len(tested)
    assert task.overall([(stamp, output) for stamp, output, _ in made]) == pytest.approx(share)
    assert np.mean([score for *_, score in made]) == pytest.approx(share)
