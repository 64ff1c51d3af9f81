"""The two objectives of the embedded model: what its vision tower learns, and what reads it learns."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, patch_class_names
from tokenry.data.scenes.style import SMALL
from tokenry.models.vlm.answering import (
    IGNORE,
    Read,
    Seen,
    answer_loss,
    drawn,
    exactly_answered,
    gathered,
    listening,
    naming_loss,
    read,
    whole,
)
from tokenry.models.vlm.embedded.batches import token_ids
from tokenry.models.vlm.embedded.caption_head import CaptionHead
from tokenry.models.vlm.embedded.contrast import CaptionContrast
from tokenry.models.vlm.embedded.model import PATCH, build_processor
from tokenry.models.vlm.embedded.patch_labels import PatchLabels, PatchPlaces
from tokenry.models.vlm.embedded.settings import AnswerSettings, TowerSettings
from tokenry.models.vlm.embedded.tiles import pack
from tokenry.train.loop import Batch, Figures, Objective

_POINTING_HEAD = 0


class PixelNorm(nn.Module):
    """uint8 pixels to what the processor would hand the model."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        image_processor = build_processor().image_processor
        for name, value in (("mean", image_processor.image_mean), ("std", image_processor.image_std)):
            self.register_buffer(name, torch.tensor(value).view(3, 1, 1), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class TowerObjective(Objective):
    """Contrast on the pooled [CLS], patch labels and places on the features that LLaVA reads."""

    def __init__(self, model: LlavaForConditionalGeneration, settings: TowerSettings) -> None:
        super().__init__()
        width = model.config.vision_config.hidden_size
        self.settings = settings
        self.layer = model.config.vision_feature_layer
        self.norm = PixelNorm()
        self.tower = model.model.vision_tower
        self.patches = PatchLabels(width, len(patch_class_names()))
        self.places = PatchPlaces(width, 2 * (SMALL.side // PATCH,))
        self.contrast = CaptionContrast(CaptionHead(width))

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the weights of a phase."""
        self.settings = options["settings"]

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Weighted sum of the three losses."""
        seen = self.tower(self.norm(batch["pixels"]), output_hidden_states=True)
        features = seen.hidden_states[self.layer][:, 1:]
        patch_loss, patch_accuracy = self.patches(features, batch["labels"])
        captioned = len(batch["words"])
        contrast, matched = self.contrast(seen.pooler_output[:captioned], batch["words"], batch["negatives"])
        place = self.places(features)
        settings = self.settings
        loss = settings.patch_weight * patch_loss + settings.contrast_weight * contrast
        return loss + settings.place_weight * place, {
            "patch": patch_loss,
            "patch_acc": patch_accuracy,
            "place": place,
            "contrast": contrast,
            "matched": matched,
        }


def class_tokens() -> list[int]:
    """The token that names each patch class: the first word of an object's name; none for the rest."""
    objects = [item.name for item in load_pack().objects]
    others = len(patch_class_names()) - len(objects)
    return [IGNORE] * others + [token_ids(name)[0] for name in objects]


class AnswerObjective(Objective):
    """Answer the questions packed behind each picture, by what the finished tower sees.

    Two further losses, whose weights go to zero before the end, shorten what a small model on little data learns last:
    to find an object by its name and to say where it is.
    """

    class_token: Tensor

    def __init__(self, model: LlavaForConditionalGeneration, settings: AnswerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = PixelNorm()
        self.model = model
        self.newline = nn.Parameter(torch.randn(model.config.text_config.hidden_size) * 0.04)
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    def visual(self, batch: Batch) -> Float[Tensor, "b n d"]:
        """The visual tokens of each picture, as the decoder is given them."""
        inner, config = self.model.model, self.model.config
        count, tiles = batch["pixels"].shape[:2]
        with torch.no_grad():
            seen = inner.vision_tower(
                self.norm(batch["pixels"].flatten(0, 1)), output_hidden_states=True
            ).hidden_states[config.vision_feature_layer][:, 1:]
        tokens = inner.multi_modal_projector(seen)
        if tiles == 1:
            return tokens
        return pack(tokens.unflatten(0, (count, tiles)), self.newline)

    def read(self, batch: Batch, visual: Float[Tensor, "b n d"], seen: Seen) -> Read:
        """Run the decoder over pictures and questions."""
        decoder = self.model.model.language_model
        bos = torch.tensor([self.model.config.text_config.bos_token_id])
        return read(decoder, decoder.layers, bos, visual, batch, seen)

    def pointing_loss(
        self, attention: Float[Tensor, "b heads s s"], batch: Batch, seen: Seen
    ) -> Float[Tensor, ""]:
        """Minus the log of the attention that an object's name pays to the patches that show the object.

        The name of an object that is not shown is to look at the beginning of the text.
        """
        labels = gathered(batch["labels"], seen.index)
        tokens = labels.shape[1]
        looks = attention[:, _POINTING_HEAD, 1 + tokens :].float()
        named = self.class_token[labels][:, None, :] == batch["ids"][:, :, None]
        shown = named.any(-1) & (batch["segment"] >= 0)
        absent = (
            ~shown & (batch["kind"] == KINDS.index("exists")) & torch.isin(batch["ids"], self.class_token)
        )
        patches = (looks[:, :, 1 : 1 + tokens] * named).sum(-1)
        mass = torch.where(absent, looks[:, :, 0], patches)[shown | absent]
        return -(mass + 1e-4).log().mean()

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers plus what is left of the naming and pointing losses."""
        settings, left = self.settings, self.settings.left(self.step)
        layers = self.model.model.language_model.layers
        visual = self.visual(batch)
        rule = settings.shortening if batch["pixels"].shape[1] == 1 else settings.tiled_shortening
        seen = drawn(batch["labels"] > 0, len(layers), rule, self.shared("shortening"))
        attention: list[Tensor] = []
        middle = layers[len(layers) // 2].self_attn
        # A layer behind a cut pays attention to fewer tokens than those that were put in.
        points = settings.pointing_weight * left > 0 and seen.cut is None
        with listening(middle, lambda output: attention.append(output[1])) if points else nullcontext():
            found = self.read(batch, visual, seen)
        total, accuracy = answer_loss(self.model.lm_head, found, batch["target"])
        figures = {"answer": total, "token_acc": accuracy}
        if settings.naming_weight * left:
            figures["naming"] = naming_loss(self.model.lm_head, found, self.class_token[batch["labels"]])
            total = total + settings.naming_weight * left * figures["naming"]
        if points:
            figures["pointing"] = self.pointing_loss(attention[0], batch, seen)
            total = total + settings.pointing_weight * left * figures["pointing"]
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked), on all tokens."""
        visual = self.visual(batch)
        found = self.read(batch, visual, whole(*visual.shape[:2]))
        return exactly_answered(self.model.lm_head, found, batch, KINDS)
