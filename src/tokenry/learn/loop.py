"""One resumable training loop for every objective.

The loop owns what is the same everywhere: mixed precision and devices (accelerate), the learning-rate schedule,
gradient clipping, progress, and checkpoints. An objective is a module whose ``forward(batch)`` returns the loss and the
figures to show; its data are a function of the step, so a run that was killed continues exactly where its last
checkpoint left it: on one device the final weights are bitwise those of an uninterrupted run.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tokenry.tokens.errors import TokenryError

_REPORT_EVERY = 20  # steps

Batch = dict[str, Tensor]
Figures = dict[str, Tensor]


class Objective(nn.Module):
    """A trainable module that turns a batch into a loss.

    Tensors that are needed for training only (a contrast head, say) are ordinary submodules: they are checkpointed with
    the rest.
    """

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss to minimise and named scalars to show, both from one batch."""
        raise NotImplementedError


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        lr: peak learning rate; linear warm-up over ``warmup`` steps, then cosine down to ``final`` times the peak.
        lr_scale: parameter-name prefix -> factor on the learning rate; 0 freezes. The longest prefix wins.
        weight_decay: on matrices; vectors and embeddings get none.
        clip: largest gradient norm.
        precision: accelerate's mixed precision, "bf16" or "no".
        checkpoint_every: steps between checkpoints; the last step always gets one.
    """

    steps: int
    lr: float = 1e-3
    warmup: int = 100
    final: float = 0.02
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    precision: str = "bf16"
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise TokenryError(
                f"steps and checkpoint_every must be at least 1, got {self.steps}, {self.checkpoint_every}"
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise TokenryError(f'precision must be "no", "bf16" or "fp16", got {self.precision!r}')

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step (counted from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


class StepBatches(Dataset[Batch]):
    """A data set whose item ``step`` is the whole batch of that step."""

    def __init__(self, make: Callable[[int], Batch], steps: int) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def _optimizer(objective: Objective, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW with one parameter group a (factor, decay) pair; freezes what has factor 0."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        prefixes = [prefix for prefix in settings.lr_scale if name.startswith(prefix)]
        factor = settings.lr_scale[max(prefixes, key=len)] if prefixes else 1.0
        parameter.requires_grad_(factor != 0)
        if factor:
            decay = settings.weight_decay if parameter.ndim >= 2 and "embed" not in name else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "weight_decay": decay, "factor": factor} for (factor, decay), p in groups.items()],
        lr=settings.lr,
        betas=settings.betas,
        foreach=True,
    )


# ------------------------------------------------------------------------------------------------- checkpoints


def save_checkpoint(folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> Path:
    """Write weights, optimiser state and step count into ``folder/step-N``; complete or not there at all.

    The two newest checkpoints are kept.
    """
    target = folder / f"step-{step:07d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in objective.state_dict().items()}, temporary / "model.safetensors")
    state = optimizer.state_dict()["state"]
    tensors = {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }
    save_file(tensors, temporary / "optimizer.safetensors")
    (temporary / "state.json").write_text(json.dumps({"step": step}))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    for old in sorted(folder.glob("step-*"))[:-2]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    found = sorted(folder.glob("step-*/state.json"))
    return found[-1].parent if found else None


def load_checkpoint(path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Restore weights (and optimiser state) and return the number of steps they have seen.

    Raises:
        TokenryError: if the checkpoint belongs to a differently shaped model or optimiser.
    """
    try:
        objective.load_state_dict(load_file(path / "model.safetensors"))
        if optimizer is not None:
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in load_file(path / "optimizer.safetensors").items():
                index, key = name.split(".", 1)
                state.setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise TokenryError(
            f"the checkpoint {path} does not fit this recipe ({error}): remove it or choose another output folder"
        ) from error
    return int(json.loads((path / "state.json").read_text())["step"])


# -------------------------------------------------------------------------------------------------------- loop


def train(
    objective: Objective,
    batches: Callable[[int], Batch],
    settings: LoopSettings,
    folder: Path,
    *,
    title: str = "training",
    workers: int = 1,
    on_checkpoint: Callable[[int], None] | None = None,
    stop_after: int | None = None,
    console: Console | None = None,
) -> Objective:
    """Train, or continue training, until ``settings.steps``.

    Args:
        objective: the module to train, in place.
        batches: step -> batch; must be deterministic and, with ``workers``, picklable.
        settings: schedule and optimiser.
        folder: where checkpoints and ``log.jsonl`` go; an existing run there is continued.
        title: shown beside the progress bar.
        workers: processes that prepare batches; 0 prepares them in this one.
        on_checkpoint: called with the step after each checkpoint (to evaluate, to export).
        stop_after: stop, checkpointed, after this step: a later call goes on.
        console: where progress is shown.

    Returns:
        The trained objective, on the device accelerate chose.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=settings.precision)
    optimizer = _optimizer(objective, settings)
    start, path = 0, latest_checkpoint(folder)
    if path is not None:
        start = load_checkpoint(path, objective, optimizer)
    end = settings.steps if stop_after is None else min(stop_after, settings.steps)
    model, prepared = accelerator.prepare(objective, optimizer)
    loader: Iterator[Any] = iter(
        DataLoader(
            StepBatches(batches, settings.steps),
            batch_size=None,
            sampler=range(start, end),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
    )
    model.train()
    with _progress(console) as bar:
        task = bar.add_task(title, total=settings.steps, completed=start, figures="")
        for step in range(start, end):
            rate = settings.rate(step)
            for group in prepared.param_groups:
                group["lr"] = settings.lr * group["factor"] * rate
            batch = {key: value.to(accelerator.device) for key, value in next(loader).items()}
            loss, figures = model(batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            prepared.step()
            prepared.zero_grad()
            done = step + 1
            due = done % settings.checkpoint_every == 0 or done == end
            if due or done % _REPORT_EVERY == 0:
                shown = {"loss": loss.item()} | {key: value.item() for key, value in figures.items()}
                if not math.isfinite(shown["loss"]):  # before anything is saved
                    raise TokenryError(
                        f"the loss became {shown['loss']} at step {done}: lower the learning rate"
                    )
                _log(folder, done, shown)
                bar.update(task, completed=done, figures="  ".join(f"{k} {v:.3f}" for k, v in shown.items()))
            if due:
                save_checkpoint(folder, accelerator.unwrap_model(model), optimizer, done)
                if on_checkpoint is not None:
                    model.eval()
                    on_checkpoint(done)
                    model.train()
    return objective


def _log(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(
            json.dumps({"step": step} | {name: round(value, 5) for name, value in figures.items()}) + "\n"
        )


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        refresh_per_second=2,
    )
