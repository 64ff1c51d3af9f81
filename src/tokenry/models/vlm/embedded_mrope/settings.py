"""The settings of the phases of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from tokenry.models.vlm.learning import AnswerSettings
from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings

SHARES: Final = {"scene": 0.4, "sized": 0.1, "clip": 0.25, "page": 0.25}
"""How the steps are shared out: scenes, scenes in other sizes, clips, pages."""


@dataclass(frozen=True)
class MropeTowerSettings:
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
class MropeAnswerSettings(AnswerSettings):
    """Merger and language model, on what the finished tower sees; of clips a batch has a quarter.

    Attributes:
        shares: how the steps are shared out.
        placing_weight: of the loss by which the decoder must say, where a visual token stands, in which place that is.
    """

    learn: ClassVar[Sequence[str]] = ("model.model.visual.merger.*", "model.model.language_model.*")
    # The tower's blocks are finished: patches stay about themselves.

    shares: Mapping[str, float] = field(default_factory=lambda: dict(SHARES))
    placing_weight: float = 0.0
