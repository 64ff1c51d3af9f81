"""Training the small LLaVA by a recipe: its projector towards what words mean, then answers, phase after phase."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from rich.console import Console

from tokenry.data.scenes.scenes import PLACES
from tokenry.data.scenes.style import Split
from tokenry.hosts.wrappers import peft_for
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.models.backbones.features import FeatureCache, FrozenTower
from tokenry.models.pretrained import smollm2_folder
from tokenry.models.vlm.dinov2_smollm2.batches import Questions, series, things
from tokenry.models.vlm.dinov2_smollm2.meanings import meanings
from tokenry.models.vlm.dinov2_smollm2.model import FEATURE_LAYER, TARGETS, build, build_processor, save_parts
from tokenry.models.vlm.dinov2_smollm2.objectives import AlignObjective, RealAnswerObjective
from tokenry.models.vlm.dinov2_smollm2.settings import AlignSettings, AnswerSettings
from tokenry.train.objective import Batch
from tokenry.train.phases import Phase, phase_at, train_phases
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
    answers: tuple[AnswerSettings, ...]
    pictures: int = 6000
    validate: int = 96
    rank: int = 16
    seed: int = 0

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
    answers: RealAnswerObjective
    train: Questions
    held_out: Questions


def prepare(recipe: RealRecipe, console: Console | None = None) -> Training:
    """Put the parts together, encode the pictures, and find out what words mean to the language model."""
    torch.manual_seed(recipe.seed)
    processor = build_processor(dinov2_folder(), smollm2_folder())
    model = build(dinov2_folder(), smollm2_folder(), processor, attn_implementation="eager")
    tower = FrozenTower(
        model.model.vision_tower,
        processor.image_processor,
        layer=len(model.model.vision_tower.encoder.layer) + 1 + FEATURE_LAYER,
    )
    counts: dict[Split, int] = {"train": recipe.pictures, "val": recipe.validate}
    train, held_out = (
        Questions(
            processor.tokenizer,
            FeatureCache(tower, series(split, count, recipe.seed)).fill(console),
            split,
            recipe.seed,
        )
        for split, count in counts.items()
    )
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
        RealAnswerObjective(model, names, recipe.answers[0]),
        train,
        held_out,
    )


def validate(training: Training, pictures: int) -> dict[str, float]:
    """Exact match by question kind, and "all", on held-out pictures."""
    total: dict[str, tuple[int, int]] = {}
    for step in range(-(-pictures // _VALIDATED)):
        batch = training.held_out.held_out(step, size=_VALIDATED)
        with torch.autocast("cpu", torch.bfloat16):
            found = training.answers.exact(batch)
        for kind, (right, asked) in found.items():
            before = total.get(kind, (0, 0))
            total[kind] = (before[0] + right, before[1] + asked)
    rates = {kind: right / asked for kind, (right, asked) in sorted(total.items())}
    return {"all": sum(r for r, _ in total.values()) / sum(a for _, a in total.values())} | rates


def run(recipe: RealRecipe, console: Console | None = None, *, stop_after: int | None = None) -> Path | None:
    """Train (or continue), export, and return the folder of the trained parts; None where it stopped before.

    Args:
        recipe: the settings.
        console: where progress is shown.
        stop_after: stop, checkpointed, after so many steps of all phases together.
    """
    console = console or Console()
    training = prepare(recipe, console)
    target, log = recipe.output / "parts", recipe.output / "validation.jsonl"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}
    first = recipe.align.phase("1-align")
    phases = [stage.phase(f"{number}-answers") for number, stage in enumerate(recipe.answers, start=2)]

    def check_and_export(phase: Phase, step: int) -> None:
        rates = validate(training, recipe.validate)
        console.print(
            f"{phase.name} step {step}: " + "  ".join(f"{k} {rate:.1%}" for k, rate in rates.items())
        )
        figures: Mapping[str, Any] = {"phase": phase.name, "step": step, "validation": rates}
        with log.open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        save_parts(training.adapted, target, {**figures, "recipe": settings})

    stop = phase_at([first, *phases], stop_after)
    together: dict[str, Any] = {"title": "", "console": console}
    if stop is None or stop[0] == first.name or not (recipe.output / phases[0].name).exists():
        train_phases(
            training.align,
            [first],
            lambda phase: partial(
                training.train.patches, size=recipe.align.batch, seed=100 * recipe.seed + 1
            ),
            recipe.output,
            stop_after=stop if stop is not None and stop[0] == first.name else None,
            **together,
        )
    if stop is not None and stop[0] == first.name:
        return None
    train_phases(
        training.answers,
        phases,
        lambda phase: _answers(phase, training.train, 100 * recipe.seed + 2 + phases.index(phase)),
        recipe.output,
        on_checkpoint=check_and_export,
        stop_after=stop,
        **together,
    )
    if stop is not None:
        return None
    notes = target / "training.json"
    done = {"phase": phases[-1].name, "step": phases[-1].loop.steps}
    if not notes.is_file() or not done.items() <= json.loads(notes.read_text()).items():
        check_and_export(phases[-1], phases[-1].loop.steps)  # died before the last export
    return target


def _answers(phase: Phase, questions: Questions, seed: int) -> Callable[[int], Batch]:
    settings: AnswerSettings = phase.options["settings"]
    return partial(
        questions.answers,
        size=settings.batch,
        seed=seed,
        captions=settings.captions,
        questions=settings.questions,
        drill=settings.drill,
    )
