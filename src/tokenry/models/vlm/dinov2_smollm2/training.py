"""Training the small LLaVA by a recipe: its projector towards what words mean, then answers, phase after phase."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from rich.console import Console
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.scenes import PLACES
from tokenry.data.scenes.style import Split
from tokenry.hosts.wrappers import device_of, peft_for
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.models.backbones.features import FeatureCache, FrozenTower
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.models.vlm.dinov2_smollm2.batches import Questions, pictures_of, series, things
from tokenry.models.vlm.dinov2_smollm2.meanings import meanings
from tokenry.models.vlm.dinov2_smollm2.model import FEATURE_LAYER, TARGETS, build, build_processor, save_parts
from tokenry.models.vlm.dinov2_smollm2.objectives import AlignObjective, RealAnswers
from tokenry.models.vlm.dinov2_smollm2.settings import AlignSettings, RealAnswerSettings
from tokenry.models.vlm.learning import Stage, rates, run_stages
from tokenry.tokens.errors import InputError
from tokenry.train.objective import Batch
from tokenry.train.phases import Phase
from tokenry.train.recipe import TrainingRecipe

_VALIDATED: Final = 16  # pictures a batch
_LONGER: Final = 4.0
"""Factor on the projector's first weights: features of this layer are that much shorter than what they are made for."""


@dataclass(frozen=True)
class RealRecipe(TrainingRecipe):
    """Everything that determines the trained model.

    Attributes:
        output: folder for checkpoints and the trained parts.
        align: the first phase: the projector alone.
        answers: the phases after it, one after the other, each with a schedule of its own.
        pictures: scenes that are trained on.
        validate: validation pictures asked about at each checkpoint.
        rank: of the adapter.
        seed: initialisation and data.
    """

    trains: ClassVar[str] = "the small LLaVA of real parts"

    output: Path
    align: AlignSettings
    answers: tuple[RealAnswerSettings, ...]
    pictures: int = 6000
    validate: int = 96
    rank: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.answers:
            raise InputError(
                "There are no phases in which answering is learnt: list at least one in answers."
            )
        for name in ("validate", "rank"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is a number from 1 on, got {getattr(self, name)}.")
        for stage in self.answers:
            if stage.loop.precision != "bf16":
                raise InputError(
                    "The language model is in bfloat16 while answering is learnt, so the precision of those phases is "
                    f"'bf16', got {stage.loop.precision!r}."
                )
        needed = max(pictures_of(self.align.batch), *(stage.batch for stage in self.answers))
        if self.pictures < needed:
            raise InputError(
                f"A batch takes {needed} pictures, and there are {self.pictures}: raise pictures, or lower batch."
            )

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train projector and adapter, or go on; steps are counted over all phases."""
        return run(self, console, stop_after=stop_after)


@dataclass(frozen=True, eq=False)
class Training:
    """What a recipe trains, and on what.

    Attributes:
        adapted: the model, with an adapter of peft around it.
        align, answers: the two objectives, which share the projector.
        train, held_out: questions about scenes.
    """

    adapted: Any
    align: AlignObjective
    answers: RealAnswers
    train: Questions
    held_out: Questions


def prepare(recipe: RealRecipe, tower: Path, language: Path, console: Console | None = None) -> Training:
    """Put the parts together, encode the pictures, and find out what words mean to the language model.

    Args:
        recipe: the settings.
        tower, language: folders of DINOv2 and SmolLM2.
        console: where progress is shown.
    """
    torch.manual_seed(recipe.seed)
    processor = build_processor(tower, language)
    model = build(tower, language, processor, attn_implementation="eager")
    train, held_out = _questions(recipe, model, processor, console)
    decoder = model.model.language_model
    goals = meanings(
        decoder,
        lambda text: processor.tokenizer(f"\n{text}")["input_ids"],
        things(),
        PLACES,
        recipe.align.layer,
    )
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        projector.linear_1.weight.mul_(_LONGER)
        projector.linear_2.bias.copy_(goals.common)
    decoder.to(torch.bfloat16)  # it does not learn; the adapter stays in single precision
    peft = peft_for("Training the small LLaVA")
    settings = peft.LoraConfig(r=recipe.rank, lora_alpha=2 * recipe.rank, target_modules=TARGETS)
    adapted = peft.get_peft_model(model, settings)
    names = train.names()
    return Training(
        adapted,
        AlignObjective(projector, goals, recipe.align),
        RealAnswers(model, names, recipe.answers[0]),
        train,
        held_out,
    )


def _questions(
    recipe: RealRecipe, model: LlavaForConditionalGeneration, processor: Any, console: Console | None
) -> tuple[Questions, Questions]:
    """Those to train on, and those to validate with, their pictures encoded."""
    blocks = model.config.vision_config.num_hidden_layers
    tower = FrozenTower(model.model.vision_tower, processor.image_processor, layer=blocks + 1 + FEATURE_LAYER)
    grid = math.isqrt(model.config.image_seq_length)
    counts: dict[Split, int] = {"train": recipe.pictures, "val": recipe.validate}
    train, held_out = (
        Questions(
            processor.tokenizer,
            FeatureCache(tower, series(split, count, recipe.seed)).fill(console),
            split,
            recipe.seed,
            grid,
        )
        for split, count in counts.items()
    )
    return train, held_out


def validate(training: Training, pictures: int) -> dict[str, float]:
    """Exact match by question kind, and "all", on held-out pictures."""
    device = device_of(training.answers)

    def exact(step: int) -> dict[str, tuple[int, int]]:
        batch = training.held_out.held_out(step, size=_VALIDATED)
        with torch.autocast(device.type, torch.bfloat16):
            return training.answers.exact({name: value.to(device) for name, value in batch.items()})

    return rates(exact(step) for step in range(-(-pictures // _VALIDATED)))


def run(
    recipe: RealRecipe,
    console: Console | None = None,
    *,
    stop_after: int | None = None,
    tower: Path | None = None,
    language: Path | None = None,
) -> Path | None:
    """Train (or continue), export, and return the folder of the trained parts; None where it stopped before.

    Args:
        recipe: the settings.
        console: where progress is shown.
        stop_after: stop, checkpointed, after so many steps of all phases together.
        tower, language: folders of DINOv2 and SmolLM2; they are fetched by default.
    """
    training = prepare(recipe, tower or dinov2_folder(), language or smollm2_folder(), console)
    target = recipe.output / "parts"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}
    phases = [stage.phase(f"{number}-answers") for number, stage in enumerate(recipe.answers, start=2)]
    seed = 100 * recipe.seed + 1
    return run_stages(
        [
            Stage(
                training.align,
                [recipe.align.phase("1-align")],
                lambda phase: partial(training.train.patches, size=recipe.align.batch, seed=seed),
            ),
            Stage(
                training.answers,
                phases,
                lambda phase: _answers(phase, training.train, seed + 1 + phases.index(phase)),
                lambda: validate(training, recipe.validate),
            ),
        ],
        recipe.output,
        target,
        lambda notes: save_parts(training.adapted, target, {**notes, "recipe": settings}),
        stop_after=stop_after,
        console=console,
    )


def _answers(phase: Phase, questions: Questions, seed: int) -> Callable[[int], Batch]:
    settings: RealAnswerSettings = phase.options["settings"]
    return partial(
        questions.answers,
        size=settings.batch,
        seed=seed,
        captions=settings.captions,
        questions=settings.questions,
        drill=settings.drill,
    )
