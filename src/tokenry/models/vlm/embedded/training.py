"""Training the embedded model by a recipe: phase after phase, with validation and export at every checkpoint."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.scenes import KINDS
from tokenry.data.scenes.style import Split
from tokenry.models.vlm.embedded.batches import answer_batch, tower_batch
from tokenry.models.vlm.embedded.caption_head import HEAD_FILE, CaptionHead, caption_words
from tokenry.models.vlm.embedded.model import build_config, build_processor
from tokenry.models.vlm.embedded.objectives import EmbeddedAnswers, TowerObjective
from tokenry.models.vlm.embedded.settings import EmbeddedAnswerSettings, TowerSettings
from tokenry.models.vlm.embedded.tiles import NEWLINE_FILE
from tokenry.models.vlm.learning import Stage, rates, run_stages
from tokenry.train.objective import Batch
from tokenry.train.phases import Phase
from tokenry.train.recipe import TrainingRecipe
from tokenry.train.trained import trained_folder


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
    tower: TowerSettings
    answers: tuple[EmbeddedAnswerSettings, ...]
    seed: int = 0
    model: Mapping[str, int] = field(default_factory=dict)
    validate: int = 64

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on; steps are counted over all phases."""
        return run(self, console, stop_after=stop_after)


def validate(
    objective: EmbeddedAnswers, pictures: int, split: Split = "val", seed: int = 0
) -> dict[str, float]:
    """Exact match by question kind, and "all", on held-out pictures."""
    device = next(objective.parameters()).device
    steps = range(-(-pictures // 32))
    batches = (answer_batch(i, size=32, seed=seed, questions=len(KINDS), split=split) for i in steps)
    return rates(objective.exact({k: v.to(device) for k, v in batch.items()}) for batch in batches)


def export(
    model: LlavaForConditionalGeneration,
    head: CaptionHead,
    newline: Tensor,
    target: Path,
    notes: Mapping[str, Any],
) -> None:
    """Write model (half precision), processor, caption head, end of a line of tiles and ``training.json`` as a folder.

    Plain transformers load it; the last three are ours.
    """
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in head.state_dict().items()}
    with trained_folder(target, notes) as scratch:
        half.half().save_pretrained(scratch)
        build_processor().save_pretrained(scratch)
        save_file(tensors, scratch / HEAD_FILE, metadata={"words": json.dumps(caption_words())})
        save_file({"image_newline": newline.detach().half()}, scratch / NEWLINE_FILE)


def build(recipe: EmbeddedRecipe) -> tuple[LlavaForConditionalGeneration, TowerObjective, EmbeddedAnswers]:
    """A freshly initialised model and the objectives of both kinds of phase, which share it."""
    torch.manual_seed(recipe.seed)
    config = build_config(build_processor(), **recipe.model)
    # eager attention trains faster than SDPA at these sizes on a CPU; what is exported does not remember it
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    return model, TowerObjective(model, recipe.tower), EmbeddedAnswers(model, recipe.answers[0])


def run(
    recipe: EmbeddedRecipe, console: Console | None = None, *, stop_after: int | None = None
) -> Path | None:
    """Train (or continue), export, and return the folder of the finished model; None where it stopped before.

    Args:
        recipe: the settings.
        console: where progress is shown.
        stop_after: stop, checkpointed, after so many steps of all phases together.
    """
    model, tower, answers = build(recipe)
    target = recipe.output / "model"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}
    make = partial(tower_batch, size=recipe.tower.batch, seed=100 * recipe.seed + 1, crops=recipe.tower.crops)
    phases = [stage.phase(f"{number}-answers") for number, stage in enumerate(recipe.answers, start=2)]
    return run_stages(
        [
            Stage(tower, [recipe.tower.phase("1-tower")], lambda phase: make),
            Stage(
                answers,
                phases,
                lambda phase: _answer_batches(phase, phases.index(phase) + 2, recipe.seed),
                lambda: validate(answers, recipe.validate),
            ),
        ],
        recipe.output,
        target,
        lambda notes: export(
            model, tower.contrast.head, answers.newline, target, {**notes, "recipe": settings}
        ),
        stop_after=stop_after,
        console=console,
    )


def _answer_batches(phase: Phase, number: int, seed: int) -> Callable[[int], Batch]:
    settings: EmbeddedAnswerSettings = phase.options["settings"]
    return partial(
        answer_batch,
        size=settings.batch,
        seed=100 * seed + number,
        questions=settings.questions,
        drill=settings.drill,
        told=settings.told,
        tiled=settings.tiled,
    )
