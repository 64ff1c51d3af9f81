"""The objective: what the vision tower learns first, and what merger and language model learn on it."""

from __future__ import annotations

import string
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import PLACES, patch_class_names
from tokenry.models.vlm.answering import (
    IGNORE,
    Read,
    Seen,
    answer_loss,
    drawn,
    exactly_answered,
    gathered,
    naming_loss,
    read,
    whole,
)
from tokenry.models.vlm.embedded.patch_labels import PatchLabels
from tokenry.models.vlm.embedded_mrope.batches import ALL_KINDS, token_ids
from tokenry.models.vlm.embedded_mrope.model import DEPTH, MERGE, PATCH, build_processor
from tokenry.models.vlm.embedded_mrope.settings import AnswerSettings, TowerSettings
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


class MropeObjective(Objective):
    """First the tower says of each patch what it shows; then the decoder answers questions by what the tower sees.

    Questions are packed behind each picture, clip or page. Two further losses, whose weights go to zero before the end,
    go through the whole language model: what a visual token shows, and in which place of the layout it stands, which it
    can know by its positions alone.
    """

    class_token: Tensor
    place_token: Tensor

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        super().__init__()
        self.settings: TowerSettings | AnswerSettings | None = None
        self.norm = Patches()
        self.model = model
        self.patches = PatchLabels(model.config.vision_config.embed_dim, len(patch_class_names()))
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)
        self.register_buffer("place_token", torch.tensor([token_ids(p)[0] for p in PLACES]), persistent=False)

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    def visual(self, batch: Batch) -> Float[Tensor, "b m d"]:
        """The visual tokens of each picture or clip."""
        visual = self.model.model.visual
        with torch.no_grad():
            seen = visual(self.norm(batch["frames"]), grid_thw=tower_grid(batch["grid"]))
        return visual.merger(seen.last_hidden_state).unflatten(0, batch["shows"].shape)

    def read(self, batch: Batch, visual: Float[Tensor, "b m d"], seen: Seen) -> Read:
        """Run the decoder over pictures and questions."""
        decoder = self.model.model.language_model
        bos = torch.tensor([self.model.config.text_config.bos_token_id])
        return read(decoder, decoder.layers, bos, visual, batch, seen)

    def placing_loss(self, found: Read, place: Int[Tensor, "b m"]) -> Float[Tensor, ""]:
        """Cross-entropy of the place of the layout in which a visual token stands, among all nine."""
        words = self.model.lm_head.weight[self.place_token]
        every = max(1, found.visual.shape[1] // 16)
        logits = F.linear(found.visual[:, ::every], words).float()
        return F.cross_entropy(logits.flatten(0, 1), gathered(place, found.left)[:, ::every].flatten())

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss of the phase."""
        if isinstance(self.settings, AnswerSettings):
            return self.answer_loss(batch, self.settings)
        return self.patch_loss(batch)

    def patch_loss(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of what each patch shows, before any are folded."""
        grid = tower_grid(batch["grid"])
        seen = self.model.model.visual(self.norm(batch["frames"]), grid_thw=grid).last_hidden_state
        loss, accuracy = self.patches(seen.unflatten(0, batch["labels"].shape), batch["labels"])
        return loss, {"patch_acc": accuracy}

    def answer_loss(self, batch: Batch, settings: AnswerSettings) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers plus what is left of the naming and placing losses."""
        left = settings.left(self.step)
        visual = self.visual(batch)
        layers, generator = len(self.model.model.language_model.layers), self.shared("shortening")
        counted = partial(on_grid, batch["grid"][0])
        seen = drawn(batch["shows"] > 0, layers, settings.shortening, generator, counted)
        found = self.read(batch, visual, seen)
        total, accuracy = answer_loss(self.model.lm_head, found, batch["target"])
        figures = {"answer": total, "token_acc": accuracy}
        if settings.naming_weight * left:
            figures["naming"] = naming_loss(self.model.lm_head, found, self.class_token[batch["shows"]])
            total = total + settings.naming_weight * left * figures["naming"]
        if settings.placing_weight * left:
            figures["placing"] = self.placing_loss(found, batch["place"])
            total = total + settings.placing_weight * left * figures["placing"]
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked), on all tokens."""
        visual = self.visual(batch)
        batch_size, tokens = visual.shape[:2]
        seen = whole(batch_size, tokens, partial(on_grid, batch["grid"][0]))
        found = self.read(batch, visual, seen)
        return exactly_answered(self.model.lm_head, found, batch, ALL_KINDS)
