"""The two objectives: what the vision tower learns first, and what merger and language model learn on it."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import PLACES, patch_class_names
from tokenry.models.vlm.answering import IGNORE, Counting, Read, Seen, gathered
from tokenry.models.vlm.embedded.patch_labels import PatchLabels
from tokenry.models.vlm.embedded_mrope.batches import ALL_KINDS, token_ids
from tokenry.models.vlm.embedded_mrope.model import DEPTH, MERGE, PATCH, build_processor
from tokenry.models.vlm.embedded_mrope.settings import MropeAnswerSettings, MropeTowerSettings
from tokenry.models.vlm.learning import AnswerObjective
from tokenry.train.objective import Batch, Figures, Objective


class Patches(nn.Module):
    """uint8 frames to what the processor would hand the model: flat patches, those of a visual token together."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        image_processor = build_processor().image_processor
        for name, value in (("mean", image_processor.image_mean), ("std", image_processor.image_std)):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def forward(self, frames: UInt8[Tensor, "b f h w 3"]) -> Float[Tensor, "n d"]:
        rows, columns = (n // PATCH // MERGE for n in frames.shape[2:4])
        values = (frames.float() / 255 - self.mean) / self.std
        cut = values.reshape(-1, DEPTH, rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
        return cut.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3 * DEPTH * PATCH * PATCH)


def tower_grid(grid: Int[Tensor, "b 3"]) -> Int[Tensor, "b 3"]:
    """Grids of patches, of those of visual tokens."""
    return grid * torch.tensor([1, MERGE, MERGE], device=grid.device)


def class_tokens() -> list[int]:
    """The token that names each patch class: none for the background, else the first word of its name."""
    names = ["sign", *string.ascii_lowercase, *(item.name for item in load_pack().objects)]
    return [IGNORE, *(token_ids(name)[0] for name in names)]


def positions_of(grid: Int[Tensor, "3"]) -> Int[Tensor, "3 m"]:
    """Positions of a picture's visual tokens on the axes of time, rows and columns, counted from 0."""
    axes = torch.meshgrid(*(torch.arange(int(n)) for n in grid), indexing="ij")
    return torch.stack(axes).flatten(1)


def on_grid(
    grid: Int[Tensor, "3"],
    index: Int[Tensor, "b k"],
    n: int,
    chance: float,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "3 b k"], int | Int[Tensor, "b 1"]]:
    """Positions of visual tokens where they stand on their grid (`tokenry.models.vlm.answering.Counting`).

    The text goes on where it does behind the whole picture or, as often, behind the largest position in use, as it does
    behind a smaller one.
    """
    positions = positions_of(grid.cpu())[:, index]
    begin = int(grid[1:].max())
    if chance < 0.5:
        return positions, begin
    return positions, (positions.amax((0, 2)) + 1).clamp(max=begin)[:, None]


class MropeTower(Objective):
    """The vision tower alone: what each patch shows, before any are folded."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, settings: MropeTowerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = Patches()
        self.model = model
        self.patches = PatchLabels(model.config.vision_config.embed_dim, len(patch_class_names()))

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of what each patch shows."""
        grid = tower_grid(batch["grid"])
        seen = self.model.model.visual(self.norm(batch["frames"]), grid_thw=grid).last_hidden_state
        loss, accuracy = self.patches(seen.unflatten(0, batch["labels"].shape), batch["labels"])
        return loss, {"patch_acc": accuracy}


class MropeAnswers(AnswerObjective):
    """Answer the questions packed behind each picture, clip or page, by what the finished tower sees.

    Two further losses, whose weights go to zero before the end, go through the whole language model: what a visual
    token shows, and in which place of the layout it stands, which it can know by its positions alone.
    """

    settings: MropeAnswerSettings
    kinds = ALL_KINDS
    class_token: Tensor
    place_token: Tensor

    def __init__(self, model: Qwen2VLForConditionalGeneration, settings: MropeAnswerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = Patches()
        self.model = model
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)
        self.register_buffer("place_token", torch.tensor([token_ids(p)[0] for p in PLACES]), persistent=False)

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    @property
    def head(self) -> nn.Module:
        """Its head."""
        return self.model.lm_head

    def visual(self, batch: Batch) -> Float[Tensor, "b m d"]:
        """The visual tokens of each picture or clip."""
        visual = self.model.model.visual
        with torch.no_grad():
            seen = visual(self.norm(batch["frames"]), grid_thw=tower_grid(batch["grid"]))
        return visual.merger(seen.last_hidden_state).unflatten(0, batch["shows"].shape)

    def shown(self, batch: Batch) -> Bool[Tensor, "b m"]:
        """Which visual tokens show something."""
        return batch["shows"] > 0

    def named(self, batch: Batch) -> Int[Tensor, "b m"]:
        """The first token of the name of what each shows."""
        return self.class_token[batch["shows"]]

    def counted(self, batch: Batch) -> Counting:
        """Positions on the grid of the batch's pictures."""
        return partial(on_grid, batch["grid"][0])

    @contextmanager
    def helped(
        self, batch: Batch, seen: Seen
    ) -> Iterator[Callable[[Read], Mapping[str, tuple[float, Tensor]]]]:
        """The placing loss."""
        weight = self.settings.placing_weight
        helps = weight * self.settings.left(self.step) > 0
        yield lambda found: {"placing": (weight, self.placing_loss(found, batch["place"]))} if helps else {}

    def placing_loss(self, found: Read, place: Int[Tensor, "b m"]) -> Float[Tensor, ""]:
        """Cross-entropy of the place of the layout in which a visual token stands, among all nine."""
        words = self.model.lm_head.weight[self.place_token]
        every = max(1, found.visual.shape[1] // 16)
        logits = F.linear(found.visual[:, ::every], words).float()
        return F.cross_entropy(logits.flatten(0, 1), gathered(place, found.left)[:, ::every].flatten())
