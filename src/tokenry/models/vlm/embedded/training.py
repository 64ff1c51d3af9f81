"""Running a recipe: stage after stage, with validation and export at every checkpoint."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from transformers import LlavaForConditionalGeneration

from tokenry.data.scenes.scenes import KINDS, Split
from tokenry.models.vlm.embedded.batches import answer_batch, tower_batch
from tokenry.models.vlm.embedded.caption_head import HEAD_FILE, CaptionHead, caption_words
from tokenry.models.vlm.embedded.model import build_config, build_processor
from tokenry.models.vlm.embedded.objectives import AnswerObjective, TowerObjective
from tokenry.models.vlm.embedded.recipe import Recipe, Stage
from tokenry.tokens.files import whole_folder
from tokenry.train.loop import Batch, Objective, latest_checkpoint, load_checkpoint, train


def validate(
    objective: AnswerObjective, pictures: int, split: Split = "val", seed: int = 0
) -> dict[str, float]:
    """Exact match by question kind, and "all", on held-out pictures."""
    device = next(objective.parameters()).device
    total: dict[str, tuple[int, int]] = {}
    for step in range(-(-pictures // 32)):
        batch = answer_batch(step, size=32, seed=seed, questions=len(KINDS), split=split)
        for kind, (right, asked) in objective.exact({k: v.to(device) for k, v in batch.items()}).items():
            before = total.get(kind, (0, 0))
            total[kind] = (before[0] + right, before[1] + asked)
    rates = {kind: right / asked for kind, (right, asked) in sorted(total.items())}
    return {"all": sum(r for r, _ in total.values()) / sum(a for _, a in total.values())} | rates


def export(
    model: LlavaForConditionalGeneration, head: CaptionHead, target: Path, notes: Mapping[str, Any]
) -> None:
    """Write model (half precision), processor, caption head and ``training.json`` as one folder.

    Plain transformers load it; the last two are ours.
    """
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in head.state_dict().items()}
    with whole_folder(target) as scratch:
        half.half().save_pretrained(scratch)
        build_processor().save_pretrained(scratch)
        save_file(tensors, scratch / HEAD_FILE, metadata={"words": json.dumps(caption_words())})
        (scratch / "training.json").write_text(json.dumps(dict(notes), indent=1, default=str) + "\n")
        for path in scratch.iterdir():
            path.chmod(0o644)  # safetensors creates files that their owner alone can read


def build(recipe: Recipe) -> tuple[LlavaForConditionalGeneration, TowerObjective, AnswerObjective]:
    """A freshly initialised model and the objectives of both kinds of stage, which share it."""
    torch.manual_seed(recipe.seed)
    config = build_config(build_processor(), **recipe.model)
    # eager attention trains faster than SDPA at these sizes on a CPU; what is exported does not remember it
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    tower = TowerObjective(model, recipe.tower)
    return model, tower, AnswerObjective(model, tower.patches, recipe.answers[0])


def run(recipe: Recipe, console: Console | None = None) -> Path:
    """Train (or continue), export, and return the folder of the finished model."""
    console = console or Console()
    model, tower, answers = build(recipe)
    target, log = recipe.output / "model", recipe.output / "validation.jsonl"
    settings = {name: value for name, value in asdict(recipe).items() if name != "output"}

    def check_and_export(number: int, step: int) -> None:
        rates = validate(answers, recipe.validate)
        console.print(
            f"stage {number} step {step}: " + "  ".join(f"{k} {rate:.1%}" for k, rate in rates.items())
        )
        figures = {"stage": number, "step": step, "validation": rates}
        with log.open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        export(model, tower.contrast.head, target, figures | {"recipe": settings})

    make: Callable[[int], Batch] = partial(tower_batch, size=recipe.tower.batch, seed=100 * recipe.seed + 1)
    _train_or_load(tower, make, recipe.tower, recipe.output / "1-tower", console)
    for number, stage in enumerate(recipe.answers, start=2):
        answers.stage = stage
        make = partial(
            answer_batch,
            size=stage.batch,
            seed=100 * recipe.seed + number,
            questions=stage.questions,
            drill=stage.drill,
        )
        hook = partial(check_and_export, number)
        _train_or_load(answers, make, stage, recipe.output / f"{number}-answers", console, hook)

    notes = target / "training.json"
    done = {"stage": 1 + len(recipe.answers), "step": recipe.answers[-1].loop.steps}
    if not notes.is_file() or not done.items() <= json.loads(notes.read_text()).items():
        check_and_export(done["stage"], done["step"])  # died before the last export
    console.print(f"the trained model is in {target}")
    return target


def _train_or_load(
    objective: Objective,
    make: Callable[[int], Batch],
    stage: Stage,
    folder: Path,
    console: Console,
    on_checkpoint: Callable[[int], None] | None = None,
) -> None:
    """Train a stage from where it stands; a finished one only hands over its weights."""
    newest = latest_checkpoint(folder)
    if newest is not None and newest.name == f"step-{stage.loop.steps:07d}":
        load_checkpoint(newest, objective)
        return
    title = folder.name.replace("-", " ")
    train(objective, make, stage.loop, folder, title=title, on_checkpoint=on_checkpoint, console=console)
