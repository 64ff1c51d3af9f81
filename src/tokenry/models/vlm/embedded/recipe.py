"""The settings of a training run of the embedded model, read from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from tokenry.train.phases import Phase
from tokenry.train.recipe import TrainingRecipe
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


@dataclass(frozen=True)
class EmbeddedRecipe(TrainingRecipe):
    """Everything that determines the trained model.

    Attributes:
        output: folder for checkpoints and the exported model.
        seed: initialisation and data.
        model: keyword arguments of :func:`tokenry.models.vlm.embedded.model.build_config`.
        tower: the first phase.
        answers: the phases of the second kind, one after the other, each with a schedule of its own.
        validate: validation pictures asked about at each checkpoint.
    """

    trains: ClassVar[str] = "the embedded model"

    output: Path
    tower: PhaseSettings
    answers: tuple[PhaseSettings, ...]
    seed: int = 0
    model: Mapping[str, int] = field(default_factory=dict)
    validate: int = 64

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on; steps are counted over all phases."""
        from tokenry.models.vlm.embedded.training import run

        return run(self, console, stop_after=stop_after)
