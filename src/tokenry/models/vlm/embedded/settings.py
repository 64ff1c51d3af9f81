"""The settings of one phase of the embedded model's training."""

from dataclasses import dataclass

from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings


@dataclass(frozen=True)
class PhaseSettings:
    """Batch size, loss weights and loop settings of one phase.

    Attributes:
        batch: pictures a step.
        loop: schedule and optimiser.
        patch_weight: of the per-patch loss.
        contrast_weight: of the picture-caption contrast (tower only).
        naming_weight: of the loss that aligns visual tokens with names (answers only).
        pointing_weight: of the loss that lets one attention head look where a named object is (answers only).
        place_weight: of the loss by which a patch token must say where it is (answers only).
        questions: of different kinds asked about each picture (answers only).
        drill: rounds of further questions that mention objects by name, the hardest to learn (answers only).
    """

    batch: int
    loop: LoopSettings
    patch_weight: float = 1.0
    contrast_weight: float = 1.0
    naming_weight: float = 0.0
    pointing_weight: float = 0.0
    place_weight: float = 0.0
    questions: int = 7
    drill: int = 0

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, options={"settings": self})
