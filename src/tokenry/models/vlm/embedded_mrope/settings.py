"""The settings of the phases of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenry.models.vlm.answering import Shortening
from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings

_READS: Final = ("model.model.visual.merger.*", "model.model.language_model.*")
"""What learns to answer: everything but the tower's blocks, whose patches stay about themselves."""
SHARES: Final = {"scene": 0.4, "sized": 0.1, "clip": 0.25, "page": 0.25}
"""How the steps are shared out: scenes, scenes in other sizes, clips, pages."""


@dataclass(frozen=True)
class TowerSettings:
    """The vision tower alone: what each patch shows.

    Attributes:
        batch: pictures a step; of clips a quarter.
        loop: schedule and optimiser.
        shares: how the steps are shared out.
    """

    batch: int
    loop: LoopSettings
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(
            name=name, loop=self.loop, learn=("model.model.visual.*", "patches.*"), options={"settings": self}
        )


@dataclass(frozen=True)
class AnswerSettings:
    """Merger and language model, on what the finished tower sees.

    Attributes:
        batch: pictures a step; of clips a quarter.
        loop: schedule and optimiser.
        questions: of different kinds asked about each picture.
        drill: rounds of further questions about other things.
        shares: how the steps are shared out.
        naming_weight: of the loss by which the decoder must name, where a visual token stands, what it shows.
        placing_weight: of the loss by which it must name there the place of the layout.
        fade: whether the weights of these two go down to zero over the phase.
        shortening: how much of what is seen is taken away.
    """

    batch: int
    loop: LoopSettings
    questions: int = 7
    drill: int = 0
    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    naming_weight: float = 0.0
    placing_weight: float = 0.0
    fade: bool = False
    shortening: Shortening = field(default_factory=Shortening)

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, learn=_READS, options={"settings": self})

    def left(self, step: int) -> float:
        """Share of the auxiliary losses' weights at a step."""
        return 1 - step / self.loop.steps if self.fade else 1.0
