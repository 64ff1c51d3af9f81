"""The two objectives of the small LLaVA: where its projector brings what patches show, and what the whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.hosts.wrappers import peft_for
from tokenry.models.vlm.answering import (
    Read,
    Seen,
    answer_loss,
    drawn,
    exactly_answered,
    naming_loss,
    read,
    whole,
)
from tokenry.models.vlm.dinov2_smollm2.batches import ALL_KINDS
from tokenry.models.vlm.dinov2_smollm2.meanings import Meanings
from tokenry.models.vlm.dinov2_smollm2.settings import AlignSettings, AnswerSettings
from tokenry.train.objective import Batch, Figures, Objective

_SHARPNESS: Final = 4.0
"""Of the choice among things and places: what nearest means."""
_SCALE: Final = 0.1
"""Weight of the distance itself, which keeps visual tokens as long as states are."""


def nearest(
    x: Float[Tensor, "n d"], among: Float[Tensor, "k d"], which: Int[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of being nearest to the right one of several points, and how often that is so."""
    squares = among.square().sum(1)
    logits = _SHARPNESS * (2 * x @ among.T - squares) / squares.mean()
    return F.cross_entropy(logits, which), (logits.argmax(1) == which).float().mean()


class AlignObjective(Objective):
    """Bring patches of the finished tower to the states of what they show and where they are."""

    common: Tensor
    things: Tensor
    places: Tensor

    def __init__(self, projector: nn.Module, goals: Meanings, settings: AlignSettings) -> None:
        super().__init__()
        self.settings = settings
        self.projector = projector
        for name in ("common", "things", "places"):
            self.register_buffer(name, getattr(goals, name), persistent=False)

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Which thing, for patches that show one; which place, for all; and the distance to both together."""
        state = self.projector(batch["patches"].float()) - self.common
        shows = batch["thing"] >= 0
        thing = self.things[batch["thing"].clamp(min=0)] * shows[:, None]
        place = self.places[batch["place"]]
        naming, named = nearest((state - place)[shows], self.things, batch["thing"][shows])
        placing, placed = nearest(state - thing, self.places, batch["place"])
        apart = (state - place - thing).square().sum(1).mean() / self.things.square().sum(1).mean()
        figures = {"naming": naming, "named": named, "placing": placing, "placed": placed, "apart": apart}
        return naming + self.settings.place_weight * placing + _SCALE * apart, figures


class RealAnswerObjective(Objective):
    """Answer the questions packed behind each picture, with an adapter on the language model."""

    def __init__(
        self, model: LlavaForConditionalGeneration, names: Int[Tensor, " classes"], settings: AnswerSettings
    ) -> None:
        """Take over a model that peft has put an adapter into.

        Args:
            model: with the adapter's modules in its language model.
            names: for each class of patches the first token of its name; `IGNORE` where there is none.
            settings: of the first phase.
        """
        super().__init__()
        self.settings = settings
        self.projector = model.model.multi_modal_projector
        self.adapter = nn.ParameterDict(
            {
                name.replace(".", "/"): parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad and "lora_" in name
            }
        )
        self.names: Tensor
        self.register_buffer("names", names, persistent=False)
        self.frozen(decoder=model.model.language_model, head=model.lm_head)
        self.decoder: Any
        self.head: Any

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    def read(self, batch: Batch, visual: Float[Tensor, "b n d"], seen: Seen) -> Read:
        """Run the language model over pictures and questions."""
        start = torch.tensor([self.decoder.config.bos_token_id])
        # LoRA's weights are kept in single precision; peft would bring every input to that first.
        with peft_for("The adapter of this model").helpers.disable_input_dtype_casting(self.decoder):
            return read(self.decoder, self.decoder.layers, start, visual, batch, seen)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers plus what is left of the naming loss."""
        settings, left = self.settings, self.settings.left(self.step)
        visual = self.projector(batch["features"].float())
        seen = drawn(
            batch["labels"] > 0, len(self.decoder.layers), settings.shortening, self.shared("shortening")
        )
        found = self.read(batch, visual, seen)
        total, accuracy = answer_loss(self.head, found, batch["target"])
        figures = {"answer": total, "token_acc": accuracy}
        if settings.naming_weight * left:
            figures["naming"] = naming_loss(self.head, found, self.names[batch["labels"]])
            total = total + settings.naming_weight * left * figures["naming"]
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked), on all tokens."""
        visual = self.projector(batch["features"].float())
        found = self.read(batch, visual, whole(*visual.shape[:2]))
        return exactly_answered(self.head, found, batch, ALL_KINDS)
