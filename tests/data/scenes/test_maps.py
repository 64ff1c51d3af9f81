"""Dense truth of scenes: which class each pixel shows, and how high it lies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tokenry.data.scenes.compose import TOUCH, make_scene, sprite
from tokenry.data.scenes.maps import pixel_class_names, pixel_classes, pixel_depth
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import SIGN, Scene
from tokenry.data.scenes.style import LARGE, OVERLAPPING, SMALL, SceneStyle


def _ink(scene: Scene, number: int) -> np.ndarray:
    """Where an object was painted, whatever was painted over it: its own picture, found by its box."""
    item = scene.items[number]
    x0, y0, x1, y1 = item.box
    mask = np.zeros(scene.owner.shape, bool)
    for size in scene.style.sizes[scene.split]:
        alpha = sprite(item.index, size)[1][:, :, 0]
        if alpha.shape == (y1 - y0, x1 - x0):
            mask[y0:y1, x0:x1] = alpha > 0.5
            return mask
    raise AssertionError("no size fits the box")


def test_classes_are_the_groups_of_what_is_seen() -> None:
    names, pack = pixel_class_names(), load_pack()
    assert names[0] == "background"
    assert names[-1] == "sign"
    for index in range(30):
        scene = make_scene("train", index, style=OVERLAPPING)
        found = pixel_classes(scene)
        assert np.array_equal(found == 0, scene.owner == 0)
        assert np.array_equal(found == len(names) - 1, scene.owner >= SIGN)
        for number, item in enumerate(scene.items):
            shown = found[scene.owner == number + 1]
            assert {names[i] for i in np.unique(shown)} <= {pack.objects[item.index].group}


@pytest.mark.parametrize("style", [SMALL, LARGE], ids=lambda style: style.name)
def test_nothing_overlaps_where_objects_stay_in_their_cells(style: SceneStyle) -> None:
    for index in range(30):
        scene = make_scene("train", index, style=style)
        assert np.array_equal(pixel_depth(scene), (scene.owner > 0).astype(np.uint8))


def test_depth_is_the_painted_order_where_one_covers_another() -> None:
    deep = covered = 0
    for index in range(60):
        scene = make_scene("train", index, style=OVERLAPPING)
        depth = pixel_depth(scene)
        for number, item in enumerate(scene.items):
            assert set(np.unique(depth[scene.owner == number + 1])) <= {item.depth}
        assert np.array_equal(depth == 0, scene.owner == 0)
        inks = [_ink(scene, number) for number in range(len(scene.items))]
        for lower, upper in combinations(range(len(inks)), 2):
            both = inks[lower] & inks[upper]
            assert not (scene.owner[both] == lower + 1).any()  # painted later: in front
            if both.sum() >= 2 * TOUCH * inks[upper].sum():
                # What hides part of the lower one from the upper one lies higher than the lower one itself.
                covered += 1
                assert scene.items[upper].depth > scene.items[lower].depth
        for number, item in enumerate(scene.items):
            if item.depth > 1:
                beneath = [i for i in range(number) if (inks[i] & inks[number]).any()]
                assert item.depth - 1 in {scene.items[i].depth for i in beneath}
            deep += item.depth > 2
    assert covered > 40
    assert deep > 3


def test_a_sign_lies_on_what_it_covers() -> None:
    scenes = [make_scene("train", index, style=OVERLAPPING) for index in range(150)]
    signs = [(scene, scene.sign) for scene in scenes if scene.sign is not None]
    depths = {sign.depth for _, sign in signs}
    assert {1, 2} <= depths
    for scene, sign in signs:
        assert set(np.unique(pixel_depth(scene)[scene.owner >= SIGN])) == {sign.depth}
