"""The two objectives of the small LLaVA: where its projector brings what patches show, and what the whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tokenry.hosts.wrappers import peft_for
from tokenry.models.vlm.answering import Read, Seen
from tokenry.models.vlm.dinov2_smollm2.batches import ALL_KINDS
from tokenry.models.vlm.dinov2_smollm2.meanings import Meanings
from tokenry.models.vlm.dinov2_smollm2.settings import AlignSettings, RealAnswerSettings
from tokenry.models.vlm.learning import AnswerObjective
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


class RealAnswers(AnswerObjective):
    """Answer the questions packed behind each picture, with an adapter on the language model."""

    kinds = ALL_KINDS

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        names: Int[Tensor, " classes"],
        settings: RealAnswerSettings,
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
        self.frozen(language_model=model.model.language_model, lm_head=model.lm_head)
        self.language_model: Any
        self.lm_head: Any

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.language_model

    @property
    def head(self) -> nn.Module:
        """Its head."""
        return self.lm_head

    def visual(self, batch: Batch) -> Float[Tensor, "b n d"]:
        """The visual tokens of each picture, as the decoder is given them."""
        return self.projector(batch["features"].float())

    def shown(self, batch: Batch) -> Bool[Tensor, "b n"]:
        """Which visual tokens show something."""
        return batch["labels"] > 0

    def named(self, batch: Batch) -> Int[Tensor, "b n"]:
        """The first token of the name of what each shows."""
        return self.names[batch["labels"]]

    def read(self, batch: Batch, visual: Float[Tensor, "b n d"], seen: Seen) -> Read:
        """Run the language model over pictures and questions."""
        # LoRA's weights are kept in single precision; peft would bring every input to that first.
        with peft_for("The adapter of this model").helpers.disable_input_dtype_casting(self.language_model):
            return super().read(batch, visual, seen)
