"""The two objectives of the embedded model: what its vision tower learns, and what reads it learns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, patch_class_names
from tokenry.data.scenes.style import SMALL
from tokenry.models.vlm.answering import IGNORE, Read, Seen, Shortening, gathered, listening
from tokenry.models.vlm.embedded.batches import ALL_KINDS, token_ids
from tokenry.models.vlm.embedded.caption_head import CaptionHead
from tokenry.models.vlm.embedded.contrast import CaptionContrast
from tokenry.models.vlm.embedded.model import PATCH, build_processor
from tokenry.models.vlm.embedded.patch_labels import PatchLabels, PatchPlaces
from tokenry.models.vlm.embedded.settings import EmbeddedAnswerSettings, TowerSettings
from tokenry.models.vlm.embedded.tiles import pack
from tokenry.models.vlm.learning import AnswerObjective
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


class EmbeddedAnswers(AnswerObjective):
    """Answer the questions packed behind each picture, by what the finished tower sees.

    Two further losses, whose weights go to zero before the end, shorten what a small model on little data learns last:
    to find an object by its name and to say where it is.
    """

    settings: EmbeddedAnswerSettings
    kinds = ALL_KINDS
    class_token: Tensor

    def __init__(self, model: LlavaForConditionalGeneration, settings: EmbeddedAnswerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = PixelNorm()
        self.model = model
        self.newline = nn.Parameter(torch.randn(model.config.text_config.hidden_size) * 0.04)
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    @property
    def head(self) -> nn.Module:
        """Its head."""
        return self.model.lm_head

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

    def shown(self, batch: Batch) -> Bool[Tensor, "b n"]:
        """Which visual tokens show something."""
        return batch["labels"] > 0

    def named(self, batch: Batch) -> Int[Tensor, "b n"]:
        """The first token of the name of what each shows."""
        return self.class_token[batch["labels"]]

    def rule(self, batch: Batch) -> Shortening:
        """How much of a batch is taken away."""
        return self.settings.shortening if batch["pixels"].shape[1] == 1 else self.settings.tiled_shortening

    @contextmanager
    def helped(
        self, batch: Batch, seen: Seen
    ) -> Iterator[Callable[[Read], Mapping[str, tuple[float, Tensor]]]]:
        """The pointing loss, which listens to the middle of the decoder."""
        weight, attention = self.settings.pointing_weight, list[Tensor]()
        # A layer behind a cut pays attention to fewer tokens than those that were put in.
        points = weight * self.settings.left(self.step) > 0 and seen.cut is None
        middle = self.decoder.layers[len(self.decoder.layers) // 2].self_attn
        with listening(middle, lambda output: attention.append(output[1])) if points else nullcontext():
            yield (
                lambda found: (
                    {"pointing": (weight, self.pointing_loss(attention[0], batch, seen))} if points else {}
                )
            )

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
