"""The settings of the phases of the embedded model's training."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from tokenry.models.vlm.answering import Shortening
from tokenry.models.vlm.learning import AnswerSettings
from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings


@dataclass(frozen=True)
class TowerSettings:
    """The vision tower alone.

    Attributes:
        batch: pictures a step.
        crops: quarters of large pictures a step, besides.
        loop: schedule and optimiser.
        patch_weight: of the per-patch loss.
        contrast_weight: of the picture-caption contrast.
        place_weight: of the loss by which a patch token must say where it is.
    """

    batch: int
    loop: LoopSettings
    crops: int = 0
    patch_weight: float = 1.0
    contrast_weight: float = 1.0
    place_weight: float = 0.0

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, options={"settings": self})


@dataclass(frozen=True)
class EmbeddedAnswerSettings(AnswerSettings):
    """Projector and language model, on what the finished tower sees.

    Attributes:
        told: how many of the lists of what a picture shows, asked for in different ways, come with each.
        tiled: share of the steps on large pictures in tiles, with a quarter as many of them.
        pointing_weight: of the loss that lets a head in the middle of the decoder look where a named object is.
        tiled_shortening: how much of pictures in tiles is taken away.
    """

    learn: ClassVar[Sequence[str]] = (
        "model.model.multi_modal_projector.*",
        "model.model.language_model.*",
        "model.lm_head.*",
        "newline",
    )
    # The tower is finished: its tokens would no longer be about their own patches.

    told: int = 0
    tiled: float = 0.0
    pointing_weight: float = 0.0
    tiled_shortening: Shortening = field(default_factory=lambda: Shortening(steps=0.85))
