"""Phases of a training: what learns, how, and on what, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from tokenry.tokens.errors import InputError
from tokenry.train.checkpoints import latest_checkpoint
from tokenry.train.loop import train
from tokenry.train.objective import Batch, Objective
from tokenry.train.optimisers import EVERYTHING
from tokenry.train.settings import LoopSettings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of a training with a schedule, optimisers and averages of its own.

    Attributes:
        name: of the phase and of its folder.
        loop: its steps, schedule and optimiser.
        learn: patterns (``fnmatch``) of the names of the parameters that learn in it; the others stay as they are.
        options: what the objective does otherwise in it (`tokenry.train.objective.Objective.enter`).
    """

    name: str
    loop: LoopSettings
    learn: Sequence[str] = EVERYTHING
    options: Mapping[str, Any] = field(default_factory=dict)


def train_phases(
    objective: Objective,
    phases: Sequence[Phase],
    batches: Callable[[Phase], Callable[[int], Batch]],
    folder: Path,
    *,
    title: str = "training",
    workers: int = 1,
    on_checkpoint: Callable[[Phase, int], None] | None = None,
    stop_after: tuple[str, int] | None = None,
    console: Console | None = None,
) -> Objective:
    """Train an objective phase after phase, or go on where the phases in a folder have come to.

    Args:
        objective: the module to train, in place.
        phases: in their order.
        batches: phase -> step -> batch; see `tokenry.train.loop.train`.
        folder: each phase keeps its checkpoints and log in a folder of its name in this one.
        title: shown beside the progress bar, before the phase's name.
        workers: processes that prepare batches; 0 prepares them in this one.
        on_checkpoint: called with the phase and the step after each checkpoint of its settings, in the main process.
        stop_after: stop, checkpointed, after this step of the phase of this name: a later call goes on.
        console: where progress is shown.

    Returns:
        The trained objective, on the device accelerate chose.

    Raises:
        InputError: if there are no phases, or two of one name, or none to stop in.
        TokenryError: as `tokenry.train.loop.train`.
    """
    names = [phase.name for phase in phases]
    if not names or len(set(names)) < len(names):
        raise InputError(
            f"A training has at least one phase and no two of one name, got {', '.join(names) or 'none'}."
        )
    if stop_after is not None and stop_after[0] not in names:
        raise InputError(f"There is no phase {stop_after[0]!r} to stop in, but {', '.join(names)}.")
    # A phase that has begun holds all weights: those before it need not be looked at.
    begun = [number for number, name in enumerate(names) if latest_checkpoint(folder / name)]
    for phase in phases[max(begun, default=0) :]:
        stop = stop_after[1] if stop_after is not None and stop_after[0] == phase.name else None
        objective.enter(phase.options)
        train(
            objective,
            batches(phase),
            phase.loop,
            folder / phase.name,
            learn=phase.learn,
            title=f"{title} {phase.name}".strip(),
            workers=workers,
            on_checkpoint=None if on_checkpoint is None else partial(on_checkpoint, phase),
            stop_after=stop,
            console=console,
        )
        if stop is not None:
            break
    return objective


def phase_at(phases: Sequence[Phase], step: int | None) -> tuple[str, int] | None:
    """The phase in which a step of all together falls, and which of its steps it is; None for no step or the last."""
    if step is None or step >= sum(phase.loop.steps for phase in phases):
        return None
    for phase in phases:
        if step <= phase.loop.steps:
            return phase.name, step
        step -= phase.loop.steps
    return None
