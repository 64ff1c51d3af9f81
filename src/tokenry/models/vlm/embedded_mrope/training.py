"""Training the embedded model with multi-axis RoPE by a recipe: phase after phase, exported at every checkpoint."""

from __future__ import annotations

import json
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
from tokenry.models.vlm.embedded_mrope.objectives import MropeObjective
from tokenry.models.vlm.embedded_mrope.settings import SHARES, AnswerSettings, TowerSettings
from tokenry.tokens.files import whole_folder
from tokenry.train.objective import Batch
from tokenry.train.phases import Phase, phase_at, train_phases
from tokenry.train.recipe import TrainingRecipe

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
    tower: TowerSettings
    answers: tuple[AnswerSettings, ...]
    seed: int = 0
    model: Mapping[str, int] = field(default_factory=dict)
    validate: int = 64

    def train(self, *, stop_after: int | None = None, console: Console | None = None) -> Path | None:
        """Train the model, or go on; steps are counted over all phases."""
        return run(self, console, stop_after=stop_after)


def validate(
    objective: MropeObjective, pictures: int, split: Split = "val", seed: int = 0
) -> dict[str, float]:
    """Exact match by sort and kind of question ("clip end"), and by sort ("clip"), on held-out pictures."""
    device = next(objective.parameters()).device
    total: dict[str, list[int]] = {}
    for sort in SHARES:
        for step in range(-(-pictures // _VALIDATED)):
            batch = mixed_batch(
                step, size=_VALIDATED, seed=seed, shares={sort: 1.0}, questions=len(ALL_KINDS), split=split
            )
            found = objective.exact({k: v.to(device) for k, v in batch.items()})
            for kind, (right, asked) in found.items():
                for name in (sort, f"{sort} {kind}"):
                    sums = total.setdefault(name, [0, 0])
                    sums[0] += right
                    sums[1] += asked
    return {name: right / asked for name, (right, asked) in sorted(total.items())}


def export(model: Qwen2VLForConditionalGeneration, target: Path, notes: Mapping[str, Any]) -> None:
    """Write model (half precision), processor and ``training.json`` as one folder."""
    half = Qwen2VLForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    with whole_folder(target) as scratch:
        half.half().save_pretrained(scratch)
        build_processor().save_pretrained(scratch)
        (scratch / "training.json").write_text(json.dumps(dict(notes), indent=1, default=str) + "\n")
        for path in scratch.iterdir():
            path.chmod(0o644)  # safetensors creates files that their owner alone can read


def build(recipe: MropeRecipe) -> MropeObjective:
    """The objective with a freshly initialised model."""
    torch.manual_seed(recipe.seed)
    config = build_config(build_processor(), **recipe.model)
    # eager attention trains faster than SDPA at these sizes on a CPU; what is exported does not remember it
    model = Qwen2VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    return MropeObjective(model)


def run(recipe: MropeRecipe, console: Console | None = None, *, stop_after: int | None = None) -> Path | None:
    """Train (or continue), export, and return the folder of the finished model; None where it stopped before.

    Args:
        recipe: the settings.
        console: where progress is shown.
        stop_after: stop, checkpointed, after so many steps of all phases together.
    """
    console = console or Console()
    objective = build(recipe)
    target, log = recipe.output / "model", recipe.output / "validation.jsonl"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}
    phases = [recipe.tower.phase("1-tower")]
    phases += [stage.phase(f"{number}-answers") for number, stage in enumerate(recipe.answers, start=2)]

    def check_and_export(phase: Phase, step: int) -> None:
        rates = {} if phase is phases[0] else validate(objective, recipe.validate)
        console.print(
            f"{phase.name} step {step}: " + "  ".join(f"{k} {rate:.1%}" for k, rate in rates.items())
        )
        figures = {"phase": phase.name, "step": step, "validation": rates}
        with log.open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        export(objective.model, target, figures | {"recipe": settings})

    stop = phase_at(phases, stop_after)
    train_phases(
        objective,
        phases,
        lambda phase: _batches(phase, phases.index(phase), recipe.seed),
        recipe.output,
        title="",
        on_checkpoint=check_and_export,
        stop_after=stop,
        console=console,
    )
    if stop is not None:
        return None
    notes = target / "training.json"
    done = {"phase": phases[-1].name, "step": phases[-1].loop.steps}
    if not notes.is_file() or not done.items() <= json.loads(notes.read_text()).items():
        check_and_export(phases[-1], phases[-1].loop.steps)  # died before the last export
    return target


def _batches(phase: Phase, number: int, seed: int) -> Callable[[int], Batch]:
    settings: TowerSettings | AnswerSettings = phase.options["settings"]
    # Of a batch's questions the tower reads nothing.
    questions, drill = (
        (settings.questions, settings.drill) if isinstance(settings, AnswerSettings) else (1, 0)
    )
    return partial(
        mixed_batch,
        size=settings.batch,
        seed=100 * seed + number + 1,
        shares=settings.shares,
        questions=questions,
        drill=drill,
    )
