"""Training the embedded model with multi-axis RoPE by a recipe: phase after phase, exported at every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from rich.console import Console
from transformers import Qwen2VLForConditionalGeneration

from tokenry.data.scenes.style import Split
from tokenry.models.vlm.embedded_mrope.batches import ALL_KINDS, mixed_batch
from tokenry.models.vlm.embedded_mrope.model import build_config, build_processor
from tokenry.models.vlm.embedded_mrope.objectives import MropeAnswers, MropeTower
from tokenry.models.vlm.embedded_mrope.settings import SHARES, MropeAnswerSettings, MropeTowerSettings
from tokenry.models.vlm.learning import Stage, rates, run_stages
from tokenry.train.objective import Batch
from tokenry.train.phases import Phase
from tokenry.train.recipe import TrainingRecipe
from tokenry.train.trained import trained_folder

_VALIDATED: Final = 16  # pictures a batch


@dataclass(frozen=True)
class MropeRecipe(TrainingRecipe):
    """Everything that determines the trained model.

    Attributes:
        output: folder for checkpoints and the exported model.
        seed: initialisation and data.
        model: keyword arguments of `tokenry.models.vlm.embedded_mrope.model.build_config`.
        tower: the first phase.
        answers: the phases of the second kind, one after the other, each with a schedule of its own.
        validate: validation pictures of each sort asked about at each checkpoint; of clips a quarter.
    """

    trains: ClassVar[str] = "the embedded model with multi-axis RoPE"

    output: Path
    tower: MropeTowerSettings
    answers: tuple[MropeAnswerSettings, ...]
    seed: int = 0
    model: Mapping[str, int] = field(default_factory=dict)
    validate: int = 64

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on; steps are counted over all phases."""
        return run(self, console, stop_after=stop_after)


def validate(objective: MropeAnswers, pictures: int, split: Split = "val", seed: int = 0) -> dict[str, float]:
    """Exact match by sort and kind of question ("clip end"), and by sort ("clip"), on held-out pictures."""
    device = next(objective.parameters()).device

    def exact(step: int, sort: str) -> dict[str, tuple[int, int]]:
        batch = mixed_batch(
            step, size=_VALIDATED, seed=seed, shares={sort: 1.0}, questions=len(ALL_KINDS), split=split
        )
        return objective.exact({name: value.to(device) for name, value in batch.items()})

    found: dict[str, float] = {}
    for sort in SHARES:
        of_sort = rates(exact(step, sort) for step in range(-(-pictures // _VALIDATED)))
        found |= {sort: of_sort.pop("all")} | {f"{sort} {kind}": rate for kind, rate in of_sort.items()}
    return found


def export(model: Qwen2VLForConditionalGeneration, target: Path, notes: Mapping[str, Any]) -> None:
    """Write model (half precision), processor and ``training.json`` as one folder."""
    half = Qwen2VLForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    with trained_folder(target, notes) as scratch:
        half.half().save_pretrained(scratch)
        build_processor().save_pretrained(scratch)


def build(recipe: MropeRecipe) -> tuple[Qwen2VLForConditionalGeneration, MropeTower, MropeAnswers]:
    """A freshly initialised model and the objectives of both kinds of phase, which share it."""
    torch.manual_seed(recipe.seed)
    config = build_config(build_processor(), **recipe.model)
    # eager attention trains faster than SDPA at these sizes on a CPU; what is exported does not remember it
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    return model, MropeTower(model, recipe.tower), MropeAnswers(model, recipe.answers[0])


def run(recipe: MropeRecipe, console: Console | None = None, *, stop_after: int | None = None) -> Path | None:
    """Train (or continue), export, and return the folder of the finished model; None where it stopped before.

    Args:
        recipe: the settings.
        console: where progress is shown.
        stop_after: stop, checkpointed, after so many steps of all phases together.
    """
    model, tower, answers = build(recipe)
    target = recipe.output / "model"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}
    first = recipe.tower.phase("1-tower")
    phases = [stage.phase(f"{number}-answers") for number, stage in enumerate(recipe.answers, start=2)]
    return run_stages(
        [
            Stage(tower, [first], lambda phase: _batches(phase, 0, recipe.seed)),
            Stage(
                answers,
                phases,
                lambda phase: _batches(phase, 1 + phases.index(phase), recipe.seed),
                lambda: validate(answers, recipe.validate),
            ),
        ],
        recipe.output,
        target,
        lambda notes: export(model, target, {**notes, "recipe": settings}),
        stop_after=stop_after,
        console=console,
    )


def _batches(phase: Phase, number: int, seed: int) -> Callable[[int], Batch]:
    settings: MropeTowerSettings | MropeAnswerSettings = phase.options["settings"]
    # Of a batch's questions the tower reads nothing.
    questions, drill = (
        (settings.questions, settings.drill) if isinstance(settings, MropeAnswerSettings) else (1, 0)
    )
    return partial(
        mixed_batch,
        size=settings.batch,
        seed=100 * seed + number + 1,
        shares=settings.shares,
        questions=questions,
        drill=drill,
    )
