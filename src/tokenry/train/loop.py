"""One resumable training loop for every objective.

The loop owns what is the same everywhere: mixed precision and devices (accelerate), the learning-rate schedule,
gradient clipping, progress, and checkpoints. An objective is a module whose ``forward(batch)`` returns the loss and the
figures to show; its data are a function of the step, so a run that was killed continues exactly where its last
checkpoint left it: on one device the final weights are bitwise those of an uninterrupted run. torch's own generator is
seeded from the step, so this holds with dropout and with objectives that sample. Besides every so many steps, a
checkpoint is written when a minute has passed, and on Ctrl-C once the step is whole.

The same call trains on several devices under ``accelerate launch`` (or ``torchrun``): every process makes the batch of
the step, takes its share of the rows, and the gradients are averaged. For a loss that is a mean over rows this is the
step that one process would have made; a loss whose denominator is counted (masked tokens, say) is averaged over the
processes' own counts, and in-batch negatives are those of the process.
"""

import atexit
import gc
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tokenry.tokens.errors import InputError, TokenryError
from tokenry.tokens.files import whole_folder
from tokenry.train.signals import HeldSignals

CHECKPOINT_SECONDS = 60.0
"""A killed run loses about so much time, however long its steps take."""
_REPORT_EVERY = 20  # steps
_SAVING = 0.05  # share of the time that checkpoints by time may take

Batch = dict[str, Tensor]
Figures = dict[str, Tensor]


class Objective(nn.Module):
    """A trainable module that turns a batch into a loss.

    The first dimension of every tensor of a batch counts its rows, so that several processes can share them; tensors
    without dimensions go to all. What is drawn at random in ``forward`` comes from torch's generator, which the loop
    seeds.

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
        checkpoint_every: steps between checkpoints at which the run can be evaluated; the last step always gets one.
        seed: of dropout and of whatever else an objective draws.
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
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise TokenryError(
                f"Steps and checkpoint_every must be at least 1, got {self.steps}, {self.checkpoint_every}"
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise TokenryError(f'Precision must be "no", "bf16" or "fp16", got {self.precision!r}')

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

    Weights that are tied are written once. The two newest checkpoints are kept.

    Raises:
        TokenryError: if the checkpoint cannot be written (a full disk); those before it are untouched.
    """
    target = folder / f"step-{step:07d}"
    state = optimizer.state_dict()["state"]
    tensors = {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in state.items()
        for key, value in entry.items()
    }
    try:
        with whole_folder(target) as scratch:
            save_model(objective, str(scratch / "model.safetensors"))
            save_file(tensors, scratch / "optimizer.safetensors")
            (scratch / "state.json").write_text(json.dumps({"step": step}))
    except InputError as error:
        raise TokenryError(
            f"The checkpoint {target} could not be written ({error.__cause__}): make room and run again, "
            "the run goes on from the checkpoint before."
        ) from error
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
        load_model(objective, path / "model.safetensors")
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
            f"The checkpoint {path} does not fit this recipe ({error}): remove it or choose another output folder."
        ) from error
    return int(json.loads((path / "state.json").read_text())["step"])


# --------------------------------------------------------------------------------------------------- processes


def _accelerator(precision: str) -> Accelerator:
    """An accelerator for this process, also for the second training of a process with another precision."""
    shared = AcceleratorState._shared_state
    if shared and shared.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()  # accelerate fixes the precision of a process at its first use
    # Without this, processes that a launcher started on a machine without accelerator would each train alone.
    launched_on_cpu = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    # Objectives may leave parameters unused (a pooler, a head of a later stage): DDP has to be told.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=launched_on_cpu, kwargs_handlers=[unused])
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)  # once, however many trainings there are
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    """Part from the other processes in order: gloo's threads, if still running at the end, abort the interpreter."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # a wrapped model that lies in a reference cycle would keep the group, and its threads, alive
        torch.distributed.destroy_process_group()


def share(batch: Batch, process: int, processes: int) -> Batch:
    """The rows of a batch that one of several processes trains on.

    Raises:
        InputError: if the rows cannot be shared evenly.
    """
    for name, tensor in batch.items():
        if tensor.ndim and tensor.shape[0] % processes:
            raise InputError(
                f"{processes} processes cannot share the {tensor.shape[0]} rows of {name!r} evenly: "
                f"choose a batch size that is a multiple of {processes}"
            )
    return {k: tensor.chunk(processes)[process] if tensor.ndim else tensor for k, tensor in batch.items()}


def _on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Do something in the main process while the others wait; if it fails, it fails in all of them."""
    failure: Exception | None = None
    if accelerator.is_main_process:
        try:
            action()
        except Exception as error:
            failure = error
    if accelerator.num_processes > 1:
        said = broadcast_object_list([None if failure is None else str(failure)])[0]
        if said is not None and failure is None:
            raise TokenryError(f"The main process stopped: {said}")
    if failure is not None:
        raise failure


def once(action: Callable[[], object], precision: str = "bf16") -> None:
    """Do something in the main process only, while the others wait; if it fails, it fails in all of them.

    Args:
        action: what to do.
        precision: of the training that it prepares or ends.
    """
    _on_main(_accelerator(precision), action)


def _seeded(accelerator: Accelerator) -> AbstractContextManager[None]:
    """Inside, torch's generators may be seeded; afterwards they are as before."""
    cuda = accelerator.device.type == "cuda"
    return torch.random.fork_rng(devices=[accelerator.device] if cuda else [])


def _seed(settings: LoopSettings, step: int, accelerator: Accelerator) -> None:
    """Seed torch from the step and the process, so that a resumed run draws what an uninterrupted one does."""
    words = (settings.seed, step, accelerator.process_index)
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


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
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    console: Console | None = None,
) -> Objective:
    """Train, or continue training, until ``settings.steps``.

    Args:
        objective: the module to train, in place.
        batches: step -> batch of all processes; must be deterministic and, with ``workers``, picklable.
        settings: schedule and optimiser.
        folder: where checkpoints and ``log.jsonl`` go; an existing run there is continued. All processes see it.
        title: shown beside the progress bar.
        workers: processes that prepare batches; 0 prepares them in this one.
        on_checkpoint: called with the step after each checkpoint of `settings` (to evaluate, to export), in the main
            process; not after those that are due by the clock.
        stop_after: stop, checkpointed, after this step: a later call goes on.
        checkpoint_seconds: time after which a checkpoint is due, whatever the step; longer if writing one takes long.
        console: where progress is shown.

    Returns:
        The trained objective, on the device accelerate chose.

    Raises:
        TokenryError: if the loss is not finite, if a checkpoint cannot be written, or if the one found does not fit.
        InputError: if the processes cannot share the rows of a batch.
        KeyboardInterrupt: on Ctrl-C, once the step that was being made is checkpointed.
    """
    accelerator = _accelerator(settings.precision)
    _on_main(accelerator, lambda: folder.mkdir(parents=True, exist_ok=True))
    optimizer = _optimizer(objective, settings)
    start, path = 0, latest_checkpoint(folder)
    accelerator.wait_for_everyone()  # nobody looks for the checkpoint that another is already writing
    if path is not None:
        start = load_checkpoint(path, objective, optimizer)
    end = settings.steps if stop_after is None else min(stop_after, settings.steps)
    model, prepared = accelerator.prepare(objective, optimizer)
    loader = DataLoader(
        StepBatches(batches, settings.steps),
        batch_size=None,
        sampler=range(start, end),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    model.train()
    clock = _Clock(checkpoint_seconds)
    with (
        _progress(console, shown=accelerator.is_main_process) as bar,
        _seeded(accelerator),
        HeldSignals() as signals,
    ):
        made: Iterator[Batch] = iter(loader)
        task = bar.add_task(title, total=settings.steps, completed=start, figures="")
        for step in range(start, end):
            rate = settings.rate(step)
            for group in prepared.param_groups:
                group["lr"] = settings.lr * group["factor"] * rate
            rows = share(next(made), accelerator.process_index, accelerator.num_processes)
            batch = {key: value.to(accelerator.device) for key, value in rows.items()}
            _seed(settings, step, accelerator)
            loss, figures = model(batch)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            prepared.step()
            prepared.zero_grad()
            done = step + 1
            stop, late = _agreed(accelerator, done, signals.pending, clock.due)
            planned = done % settings.checkpoint_every == 0 or done == end
            due = planned or stop or late
            if due or done % _REPORT_EVERY == 0:
                shown = _means(accelerator, {"loss": loss} | figures)
                if not math.isfinite(shown["loss"]):  # before anything is saved
                    raise TokenryError(
                        f"The loss became {shown['loss']} at step {done}: lower the learning rate."
                    )
                if accelerator.is_main_process:
                    _log(folder, done, shown)
                bar.update(task, completed=done, figures="  ".join(f"{k} {v:.3f}" for k, v in shown.items()))
            if due:
                inner = accelerator.unwrap_model(model)
                with clock.saving():
                    _on_main(accelerator, partial(save_checkpoint, folder, inner, optimizer, done))
                if planned and on_checkpoint is not None:
                    model.eval()
                    _on_main(accelerator, partial(on_checkpoint, done))
                    model.train()
            if stop:
                signals.stop()
    return objective


class _Clock:
    """When a checkpoint is due by time: after so many seconds, and never so often that saving takes the time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = self._wait = seconds
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved >= self._wait

    @contextmanager
    def saving(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._wait = max(self._seconds, (self._saved - started) / _SAVING)


def _agreed(accelerator: Accelerator, step: int, stop: bool, late: bool) -> tuple[bool, bool]:
    """Whether to stop, and whether a checkpoint is late: as the main process has it, in all of them.

    Processes that did not save and stop at the same step would wait for each other for ever. They ask each other only
    where they wait for each other anyway.
    """
    if accelerator.num_processes == 1:
        return stop, late
    if step % _REPORT_EVERY:
        return False, False
    stop, late = broadcast_object_list([(stop, late)])[0]
    return stop, late


def _means(accelerator: Accelerator, figures: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures of a step, averaged over the processes."""
    values = torch.stack([figure.detach().float() for figure in figures.values()])
    return dict(zip(figures, accelerator.reduce(values, "mean").tolist(), strict=True))


def _log(folder: Path, step: int, figures: Mapping[str, float]) -> None:
    line = json.dumps({"step": step} | {name: round(value, 5) for name, value in figures.items()})
    try:
        with (folder / "log.jsonl").open("a") as log:
            log.write(line + "\n")
    except OSError as error:
        raise TokenryError(f"{folder / 'log.jsonl'} could not be written ({error}): make room.") from error


def _progress(console: Console | None, *, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console,
        refresh_per_second=2,
        disable=not shown,
    )
