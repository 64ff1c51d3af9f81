"""The two objectives of the embedded model: what its vision tower learns, and what the whole learns."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import KINDS, patch_class_names
from tokenry.data.scenes.style import SMALL
from tokenry.models.vlm.embedded.batches import IGNORE, token_ids
from tokenry.models.vlm.embedded.caption_head import CaptionHead
from tokenry.models.vlm.embedded.contrast import CaptionContrast
from tokenry.models.vlm.embedded.model import PATCH, build_processor
from tokenry.models.vlm.embedded.patch_labels import PatchLabels, PatchPlaces
from tokenry.models.vlm.embedded.settings import PhaseSettings
from tokenry.train.loop import Batch, Figures, Objective

_POINTING_LAYER, _POINTING_HEAD = 1, 0
_NAMING_SCALE = 20.0  # a cosine of a third then tells one of 300 words; the rest of a token is free


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
    """Contrast on the pooled [CLS], patch labels on the features that LLaVA reads."""

    def __init__(self, model: LlavaForConditionalGeneration, settings: PhaseSettings) -> None:
        super().__init__()
        width = model.config.vision_config.hidden_size
        self.settings = settings
        self.layer = model.config.vision_feature_layer
        self.norm = PixelNorm()
        self.tower = model.model.vision_tower
        self.patches = PatchLabels(width, len(patch_class_names()))
        self.contrast = CaptionContrast(CaptionHead(width))

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the weights of a phase."""
        self.settings = options["settings"]

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Weighted sum of the two losses."""
        seen = self.tower(self.norm(batch["pixels"]), output_hidden_states=True)
        patch_loss, patch_accuracy = self.patches(seen.hidden_states[self.layer][:, 1:], batch["labels"])
        contrast, matched = self.contrast(seen.pooler_output, batch["words"], batch["negatives"])
        loss = self.settings.patch_weight * patch_loss + self.settings.contrast_weight * contrast
        return loss, {
            "patch": patch_loss,
            "patch_acc": patch_accuracy,
            "contrast": contrast,
            "matched": matched,
        }


def packed_mask(segment: Int[Tensor, "b t"], prefix: int) -> Bool[Tensor, "b 1 s s"]:
    """Who may look at whom when questions are packed behind a shared prefix: causal, and not across questions."""
    batch, length = segment.shape
    shared = segment.new_full((batch, prefix), -2)
    owner = torch.cat([shared, segment], dim=1)
    same = owner[:, :, None] == owner[:, None, :]
    visible = same | (owner[:, None, :] == -2)
    causal = torch.ones(prefix + length, prefix + length, dtype=torch.bool, device=segment.device).tril()
    return (visible & causal)[:, None]


def class_tokens() -> list[int]:
    """The token that names each patch class: the first word of an object's name; none for the rest."""
    objects = [item.name for item in load_pack().objects]
    others = len(patch_class_names()) - len(objects)
    return [IGNORE] * others + [token_ids(name)[0] for name in objects]


class AnswerObjective(Objective):
    """Answer the questions packed behind each picture, and keep the patch tokens local.

    Three further losses, each with a weight of its own, shorten what a small model on little data learns last: to find
    an object by its name and to say where it is.
    """

    class_token: Tensor

    def __init__(
        self, model: LlavaForConditionalGeneration, patches: PatchLabels, settings: PhaseSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.norm = PixelNorm()
        self.model = model
        self.patches = patches
        self.places = PatchPlaces(model.config.vision_config.hidden_size, 2 * (SMALL.side // PATCH,))
        self.register_buffer("class_token", torch.tensor(class_tokens()), persistent=False)

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the weights of a phase."""
        self.settings = options["settings"]

    def naming_loss(self, visual: Float[Tensor, "b n d"], labels: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Cross-entropy of naming what a visual token shows by its cosine with the word embeddings.

        Places are found by what the tower knows about positions; objects are found by name only once a name and the
        visual tokens that show it are alike. Left to the answers, that takes most of the training.
        """
        target = self.class_token[labels]
        shown = target != IGNORE
        words = F.normalize(self.model.get_input_embeddings().weight.float(), dim=-1)
        cosine = F.normalize(visual[shown].float(), dim=-1) @ words.T
        return F.cross_entropy(_NAMING_SCALE * cosine, target[shown])

    def pointing_loss(self, attention: Float[Tensor, "b heads s s"], batch: Batch) -> Float[Tensor, ""]:
        """Minus the log of the attention that an object's name pays to the patches that show the object.

        The name of an object that is not shown is to look at the beginning of the text.
        """
        tokens = batch["labels"].shape[1]
        looks = attention[:, _POINTING_HEAD, 1 + tokens :].float()
        named = self.class_token[batch["labels"]][:, None, :] == batch["ids"][:, :, None]
        shown = named.any(-1) & (batch["segment"] >= 0)
        absent = (
            ~shown & (batch["kind"] == KINDS.index("exists")) & torch.isin(batch["ids"], self.class_token)
        )
        patches = (looks[:, :, 1 : 1 + tokens] * named).sum(-1)
        mass = torch.where(absent, looks[:, :, 0], patches)[shown | absent]
        return -(mass + 1e-4).log().mean()

    def logits(
        self, batch: Batch
    ) -> tuple[Float[Tensor, "b t vocabulary"], Float[Tensor, "b n width"], Float[Tensor, "b n d"]]:
        """Next-token logits on the packed questions, the tower's features, and what the projector makes of them."""
        inner, config = self.model.model, self.model.config
        seen = inner.vision_tower(self.norm(batch["pixels"]), output_hidden_states=True)
        features = seen.hidden_states[config.vision_feature_layer][:, 1:]
        embed = inner.language_model.embed_tokens
        start = embed(batch["ids"].new_full((len(features), 1), config.text_config.bos_token_id))
        text = embed(batch["ids"])
        visual = inner.multi_modal_projector(features).to(text.dtype)
        prefix = 1 + visual.shape[1]
        visible = packed_mask(batch["segment"], prefix)
        # a finite floor keeps rows of padding, which see nothing but the prefix, free of NaN
        mask = torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, -1e4)
        head = torch.arange(prefix, device=visible.device).expand(len(features), -1)
        hidden = inner.language_model(
            inputs_embeds=torch.cat([start, visual, text], dim=1),
            attention_mask=mask,
            position_ids=torch.cat([head, batch["positions"] + prefix], dim=1),
            use_cache=False,
        ).last_hidden_state
        return self.model.lm_head(hidden[:, prefix:]).float(), features, visual

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers plus the weighted patch, naming and pointing losses."""
        attention: list[Tensor] = []
        layer = self.model.model.language_model.layers[_POINTING_LAYER].self_attn
        hook = layer.register_forward_hook(lambda _module, _inputs, output: attention.append(output[1]))
        try:
            logits, features, visual = self.logits(batch)
        finally:
            hook.remove()
        asked = batch["target"] != IGNORE
        picked, target = logits[asked], batch["target"][asked]
        loss = F.cross_entropy(picked, target)
        patch_loss, patch_accuracy = self.patches(features, batch["labels"])
        figures = {
            "answer": loss,
            "token_acc": (picked.argmax(-1) == target).float().mean(),
            "patch_acc": patch_accuracy,
        }
        total = loss + self.settings.patch_weight * patch_loss
        if self.settings.naming_weight:
            figures["naming"] = self.naming_loss(visual, batch["labels"])
            total = total + self.settings.naming_weight * figures["naming"]
        if self.settings.place_weight:
            figures["place"] = self.places(features)
            total = total + self.settings.place_weight * figures["place"]
        if self.settings.pointing_weight:
            figures["pointing"] = self.pointing_loss(attention[0], batch)
            total = total + self.settings.pointing_weight * figures["pointing"]
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked).

        Under teacher forcing the greedy answer equals the reference exactly where every one of its tokens, the end
        included, is the most likely one.
        """
        logits, _, _ = self.logits(batch)
        wrong = (logits.argmax(-1) != batch["target"]) & (batch["target"] != IGNORE)
        score: dict[str, tuple[int, int]] = {}
        for row in range(len(wrong)):
            segment = batch["segment"][row]
            for number in range(int(segment.max()) + 1):
                here = segment == number
                kind = KINDS[int(batch["kind"][row][here][0])]
                right, asked = score.get(kind, (0, 0))
                score[kind] = (right + int(not wrong[row][here].any()), asked + 1)
        return score
