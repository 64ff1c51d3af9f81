"""What each pixel of a scene shows, and how high it lies: what dense predictions are judged by."""

from functools import cache

import numpy as np
from jaxtyping import UInt8

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import SIGN, Scene


@cache
def pixel_class_names() -> tuple[str, ...]:
    """What a pixel can show: background, an object of a group of the pack, or a sign."""
    return ("background", *load_pack().groups, "sign")


def pixel_classes(scene: Scene) -> UInt8[np.ndarray, "side side"]:
    """The class of each pixel, by its position in `pixel_class_names`."""
    objects, names = load_pack().objects, pixel_class_names()
    return _painted(
        scene, [names.index(objects[item.index].group) for item in scene.items], names.index("sign")
    )


def pixel_depth(scene: Scene) -> UInt8[np.ndarray, "side side"]:
    """How high each pixel lies: 0 the background, 1 what lies on it, 2 what lies on that ...

    That is the painted order as far as the picture shows it: of two objects that do not touch, which was painted first
    cannot be seen.
    """
    return _painted(scene, [item.depth for item in scene.items], scene.sign.depth if scene.sign else 0)


def _painted(scene: Scene, of_items: list[int], of_sign: int) -> UInt8[np.ndarray, "side side"]:
    values = np.zeros(256, np.uint8)
    values[1 : 1 + len(of_items)] = of_items
    values[SIGN:] = of_sign
    return values[scene.owner]
