"""Studies: what the experiment of a reproduction is given.

Whatever takes long goes through `Study.train` or `Study.ask`, or is kept in `Study.folder`, so that an interrupted
reproduction goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool
from rich.console import Console

from tokenry.bench.reproduce.design import Questions
from tokenry.bench.reproduce.vqa.lab import Arms, VqaLab
from tokenry.bench.reproduce.vqa.predictions import Predictions
from tokenry.data.questions.examples import Example
from tokenry.tokens import InputError
from tokenry.train.loop import Batch, LoopSettings, Objective, train

Trained = TypeVar("Trained", bound=Objective)


@dataclass(frozen=True)
class Study:
    """The settings, seeds and means of one run of an experiment.

    Attributes:
        slug: the system.
        settings: of the design.
        seeds: of the design; one training, one draw of data or one set of questions each.
        folder: for checkpoints and whatever else a continued run should find again.
        open_lab: opens the embedded model; called when `lab` is first asked for.
        questions: what the embedded model is asked; None where models of the study's own are measured.
        console: where progress is shown; None shows it on stderr.
    """

    slug: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    folder: Path
    open_lab: Callable[[], VqaLab]
    questions: Questions | None = None
    console: Console | None = None

    @cached_property
    def lab(self) -> VqaLab:
        """The embedded model with everything that can be asked of it; opened when first used."""
        return self.open_lab()

    def ask(self, arms: Arms) -> dict[str, Predictions]:
        """Put the questions of the design to the embedded model under every arm.

        Raises:
            InputError: the design has none.
        """
        return self.lab.ask(arms, self._questions(), self.slug)

    def asked_patches(self) -> tuple[list[Example], Bool[np.ndarray, "q n"]]:
        """The questions in the order of predictions, and the patches that each answer depends on.

        Raises:
            InputError: the design has none.
        """
        return self.lab.patches(self._questions())

    def _questions(self) -> Questions:
        if self.questions is None:
            raise InputError(f"The design of {self.slug} has no questions for the embedded model.")
        return self.questions

    def train(
        self, objective: Trained, batches: Callable[[int], Batch], settings: LoopSettings, name: str
    ) -> Trained:
        """Train a model on the CPU, or take up its training, and return it in evaluation mode.

        Args:
            objective: the module to train, in place.
            batches: step -> batch, deterministic.
            settings: schedule and optimiser.
            name: of the arm and seed; its checkpoints lie in a folder of that name.
        """
        train(objective, batches, settings, self.folder / name, title=name, workers=0, console=self.console)
        return objective.eval()
