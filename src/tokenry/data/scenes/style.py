"""What scenes look like: how large they are, and how large what they show is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tokenry.tokens.errors import InputError

Split = Literal["train", "val", "test"]
Sizes: TypeAlias = Mapping[Split, tuple[int, ...]]

CELLS = 3  # the layout is CELLS x CELLS


@dataclass(frozen=True)
class SceneStyle:
    """Sizes by which scenes are drawn, in pixels.

    Attributes:
        name: by which commands know it.
        side: of the picture.
        sizes: of objects before they are cropped to their ink; no size is in two splits.
        letter: pitch and height of a sign's letters.
        signs: share of the scenes that have a sign.
        unasked: kinds of questions that are not asked of such scenes.
        reach: how far objects may stick out of their cells, so that they overlap; their centres stay inside.
    """

    name: str
    side: int
    sizes: Sizes = field(hash=False)
    letter: tuple[int, int]
    signs: float = 0.7
    unasked: tuple[str, ...] = ()
    reach: int = 0

    def __post_init__(self) -> None:
        largest = max(size for sizes in self.sizes.values() for size in sizes)
        pitch, height = self.letter
        room = 2 * self.cell - 4 * pitch - 5 * self.border, self.cell - height - 8 * self.border
        if min(*room, self.cell + 2 * self.reach - largest - 2) < 0:
            raise InputError(
                f"A {self.side} x {self.side} scene has cells of {self.cell} pixels: objects of {largest} or letters "
                f"of {pitch} x {height} do not fit, so make them smaller."
            )

    @property
    def cell(self) -> int:
        """Side of a cell of the layout."""
        return self.side // CELLS

    @property
    def border(self) -> int:
        """Width of a sign's border."""
        return max(1, self.side // 96)


SMALL = SceneStyle(
    "small", 96, {"train": (18, 20, 22, 24, 26), "val": (21, 25), "test": (19, 23)}, letter=(9, 12), signs=0.5
)
"""Pictures of 96 pixels whose objects cover three patches of 8 each way, and whose letters about one."""
FINE = SceneStyle("fine", 96, {"train": (13, 14, 16, 18, 20), "val": (17,), "test": (15, 19)}, letter=(7, 9))
"""Pictures of 96 pixels whose objects cover two patches of 8 each way, and whose letters less than one.

At half the size little of them can be told any more, which is what a test bed is for."""
TILED = SceneStyle(
    "tiled", 192, {"train": (18, 20, 22, 24, 26), "val": (21, 25), "test": (19, 23)}, letter=(7, 9)
)
"""Pictures of 192 pixels with details that are gone at half the size: four crops and a thumbnail of 96."""
LARGE = SceneStyle(
    "large",
    224,
    {"train": (42, 45, 48, 54, 60), "val": (51,), "test": (46, 57)},
    letter=(29, 36),
    signs=0.4,
    unasked=("sign",),
)
"""Pictures of 224 pixels in which objects cover three to four patches of 14 each way.

What a sign says is not asked: DINOv2's patches of 14 pixels tell two letters of five, so four are hardly ever right."""
OVERLAPPING = SceneStyle(
    "overlapping",
    224,
    {"train": (66, 72, 80, 88, 96), "val": (76,), "test": (70, 84)},
    letter=(29, 36),
    signs=0.3,
    reach=30,
)
"""Pictures of 224 pixels in which objects lie on top of each other: what is behind is seen in part."""
STYLES = (SMALL, FINE, TILED, LARGE, OVERLAPPING)
