"""One resumable training loop for every objective.

The loop owns what is the same everywhere: mixed precision and devices (accelerate), the learning-rate schedule,
gradient clipping, players' turns, averages of the weights, progress, and checkpoints. An objective is a module whose
``forward(batch)`` returns the loss and the figures to show; its data are a function of the step, so a run that was
killed continues exactly where its last checkpoint left it: on one device the final weights are bitwise those of an
uninterrupted run. torch's own generator is seeded from the step, so this holds with dropout and with objectives that
sample. Besides every so many steps, a checkpoint is written when a minute has passed, and on Ctrl-C once the step is
whole.

The same call trains on several devices under ``accelerate launch`` (or ``torchrun``): every process makes the batch of
the step, takes its share of the rows, and the gradients are averaged. For a loss that is a mean over rows this is the
step that one process would have made; a loss whose denominator is counted (masked tokens, say) is averaged over the
processes' own counts, and in-batch negatives are those of the process.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.data import DataLoader, Dataset

from tokenry.tokens.errors import InputError, TokenryError
from tokenry.train.checkpoints import latest_checkpoint, load_average, load_checkpoint, save_checkpoint
from tokenry.train.ema import WeightAverage
from tokenry.train.objective import Batch, Figures, Objective
from tokenry.train.optimisers import EVERYTHING, alone, optimisers, set_rates, sides
from tokenry.train.processes import (
    make_accelerator,
    mean_figures,
    on_main,
    once,
    seed_step,
    seeded,
    share,
)
from tokenry.train.settings import LoopSettings
from tokenry.train.signals import HeldSignals

__all__ = [
    "CHECKPOINT_SECONDS",
    "Batch",
    "Figures",
    "LoopSettings",
    "Objective",
    "StepBatches",
    "latest_checkpoint",
    "load_checkpoint",
    "once",
    "save_checkpoint",
    "share",
    "train",
]

CHECKPOINT_SECONDS = 60.0
"""A killed run loses about so much time, however long its steps take."""
_REPORT_EVERY = 20  # steps
_SAVING = 0.05  # share of the time that checkpoints by time may take


class StepBatches(Dataset[Batch]):
    """A data set whose item ``step`` is the whole batch of that step."""

    def __init__(self, make: Callable[[int], Batch], steps: int) -> None:
        self.make, self.steps = make, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def train(
    objective: Objective,
    batches: Callable[[int], Batch],
    settings: LoopSettings,
    folder: Path,
    *,
    learn: Sequence[str] = EVERYTHING,
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
        learn: patterns (``fnmatch``) of the names of the parameters that learn.
        title: shown beside the progress bar.
        workers: processes that prepare batches; 0 prepares them in this one.
        on_checkpoint: called with the step after each checkpoint of `settings` (to evaluate, to export), in the main
            process; not after those that are due by the clock. Averaged weights: `Objective.averaged`.
        stop_after: stop, checkpointed, after this step: a later call goes on.
        checkpoint_seconds: time after which a checkpoint is due, whatever the step; longer if writing one takes long.
        console: where progress is shown.

    Returns:
        The trained objective, on the device accelerate chose.

    Raises:
        TokenryError: if the loss is not finite, if a checkpoint cannot be written, or if the one found does not fit.
        InputError: if the processes cannot share the rows of a batch, or if nothing learns.
        KeyboardInterrupt: on Ctrl-C, once the step that was being made is checkpointed.
    """
    run = _Run(objective, settings, folder, learn)
    end = settings.steps if stop_after is None else min(stop_after, settings.steps)
    if run.start < end:
        steps = range(run.start, end)
        loader = DataLoader(
            StepBatches(batches, settings.steps),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        with (
            _progress(console, shown=run.accelerator.is_main_process) as bar,
            seeded(run.accelerator),
            HeldSignals() as signals,
        ):
            task = bar.add_task(title, total=settings.steps, completed=run.start, figures="")
            show = partial(bar.update, task)
            _go(run, steps, iter(loader), signals, _Clock(checkpoint_seconds), show, on_checkpoint)
    return objective


def _go(
    run: _Run,
    steps: range,
    batches: Iterator[Batch],
    signals: HeldSignals,
    clock: _Clock,
    show: Callable[..., None],
    on_checkpoint: Callable[[int], None] | None,
) -> None:
    """Make the steps of a run; what is due after each is shown, saved, evaluated."""
    for step in steps:
        figures = run.step(step, next(batches))
        done = step + 1
        stop, late = _agreed(run.accelerator, done, signals.pending, clock.due)
        planned = done % run.settings.checkpoint_every == 0 or done == steps.stop
        due = planned or stop or late
        if due or done % _REPORT_EVERY == 0:
            shown = run.report(done, figures)
            show(completed=done, figures="  ".join(f"{k} {v:.3f}" for k, v in shown.items()))
        if due:
            with clock.saving():
                run.save(done)
            if planned and on_checkpoint is not None:
                run.evaluate(partial(on_checkpoint, done))
        if stop:
            signals.stop()


class _Run:
    """A training under way: the objective with its optimisers and averages, at the step it has come to."""

    def __init__(
        self, objective: Objective, settings: LoopSettings, folder: Path, learn: Sequence[str]
    ) -> None:
        self.objective, self.settings, self.folder = objective, settings, folder
        self.accelerator = make_accelerator(settings.precision)
        on_main(self.accelerator, lambda: folder.mkdir(parents=True, exist_ok=True))
        self._owned = sides(objective)
        self._optimisers = optimisers(objective, settings, learn)
        if settings.precision == "fp16" and objective.simultaneous and len(self._optimisers) > 1:
            raise InputError(
                'Players that move at once cannot train in "fp16", whose scale changes with each move: '
                'use "bf16", or let them take turns.'
            )
        path = latest_checkpoint(folder)
        self.accelerator.wait_for_everyone()  # nobody looks for the checkpoint that another is already writing
        self.start = 0 if path is None else load_checkpoint(path, objective, self._optimisers)
        self.model, *prepared = self.accelerator.prepare(objective, *self._optimisers.values())
        self._prepared: dict[str, Any] = dict(zip(self._optimisers, prepared, strict=True))
        self._average = objective.average = self._averages()
        if path is not None:
            load_average(path, self._average)
        self.model.train()

    def _averages(self) -> WeightAverage | None:
        decays = {
            name: self.settings.of(player).ema
            for player, parameters in self._owned.items()
            for name, parameter in parameters.items()
            if parameter.requires_grad and self.settings.of(player).ema
        }
        return WeightAverage(dict(self.objective.named_parameters()), decays) if decays else None

    def step(self, step: int, whole: Batch) -> Figures:
        """Let everybody whose turn it is move; returns their losses and figures."""
        accelerator, objective = self.accelerator, self.objective
        for player, optimiser in self._prepared.items():
            set_rates(optimiser, self.settings.of(player), step)
        rows = share(whole, accelerator.process_index, accelerator.num_processes)
        batch = {key: value.to(accelerator.device) for key, value in rows.items()}
        seed_step(self.settings.seed, step, accelerator)
        objective.begin(self.settings.seed, step)
        turns = [player for player in objective.turns() if player in self._prepared]
        figures: Figures = {}
        if objective.simultaneous:
            for player in turns:
                figures |= self._gradients(player, batch)
            for player in turns:
                self._move(player)
        else:
            for player in turns:
                figures |= self._gradients(player, batch)
                self._move(player)
        with torch.no_grad():
            objective.stepped()
        if self._average is not None:
            self._average.update(step)
        return figures

    def _gradients(self, player: str, batch: Batch) -> Figures:
        """Those of a player's loss, for its own parameters alone."""
        self.objective.player = player
        with alone(player, self._owned):
            loss, figures = self.model(batch)
            self.accelerator.backward(loss)
        return {player or "loss": loss} | figures

    def _move(self, player: str) -> None:
        optimiser = self._prepared[player]
        self.accelerator.unscale_gradients(optimiser)
        torch.nn.utils.clip_grad_norm_(self._owned[player].values(), self.settings.of(player).clip)
        optimiser.step()
        optimiser.zero_grad()

    def report(self, done: int, figures: Figures) -> dict[str, float]:
        """Log the figures of a step, averaged over the processes.

        Raises:
            TokenryError: a loss that is not finite.
        """
        shown = mean_figures(self.accelerator, figures)
        for name in ("loss", *self._prepared):
            if name in shown and not math.isfinite(shown[name]):  # before anything is saved
                whose = "loss" if name == "loss" else f"{name}'s loss"
                raise TokenryError(
                    f"The {whose} became {shown[name]} at step {done}: lower the learning rate."
                )
        if self.accelerator.is_main_process:
            _log(self.folder, done, shown)
        return shown

    def save(self, done: int) -> None:
        """Write a checkpoint."""
        on_main(
            self.accelerator,
            partial(save_checkpoint, self.folder, self.objective, self._optimisers, done, self._average),
        )

    def evaluate(self, action: Callable[[], None]) -> None:
        """Do something in the main process with the objective in evaluation mode."""
        self.model.eval()
        on_main(self.accelerator, action)
        self.model.train()


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
