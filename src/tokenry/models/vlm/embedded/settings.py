"""The settings of the phases of the embedded model's training."""

from dataclasses import dataclass, field
from typing import Final

from tokenry.models.vlm.answering import Shortening
from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings

_READS: Final = (
    "model.model.multi_modal_projector.*",
    "model.model.language_model.*",
    "model.lm_head.*",
    "newline",
)
"""What learns to answer: everything but the tower, whose tokens would no longer be about their own patches."""


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
class AnswerSettings:
    """Projector and language model, on what the finished tower sees.

    Attributes:
        batch: pictures a step.
        loop: schedule and optimiser.
        questions: of different kinds asked about each picture.
        drill: rounds of further questions that mention objects by name, the hardest to learn.
        tiled: share of the steps on large pictures in tiles, with a quarter as many of them.
        naming_weight: of the loss by which the decoder must name, where a visual token stands, what it shows.
        pointing_weight: of the loss that lets a head in the middle of the decoder look where a named object is.
        fade: whether the weights of these two go down to zero over the phase.
        shortening: how much of what is seen is taken away.
        tiled_shortening: the same of pictures in tiles.
    """

    batch: int
    loop: LoopSettings
    questions: int = 7
    drill: int = 0
    tiled: float = 0.0
    naming_weight: float = 0.0
    pointing_weight: float = 0.0
    fade: bool = False
    shortening: Shortening = field(default_factory=Shortening)
    tiled_shortening: Shortening = field(default_factory=lambda: Shortening(steps=0.85))

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, learn=_READS, options={"settings": self})

    def left(self, step: int) -> float:
        """Share of the auxiliary losses' weights at a step."""
        return 1 - step / self.loop.steps if self.fade else 1.0
