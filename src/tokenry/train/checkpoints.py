"""Checkpoints of a training: weights, optimisers, averages and step, written whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from tokenry.tokens.errors import InputError, TokenryError
from tokenry.tokens.files import whole_folder
from tokenry.train.ema import WeightAverage

_KEPT: Final = 2
_WEIGHTS: Final = "model.safetensors"
_AVERAGE: Final = "average.safetensors"
_STATE: Final = "state.json"


def save_checkpoint(
    folder: Path,
    objective: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer],
    step: int,
    average: WeightAverage | None = None,
) -> Path:
    """Write weights, optimiser states, averages and step count into ``folder/step-N``; complete or not there at all.

    Weights that are tied are written once. The two newest checkpoints are kept.

    Args:
        folder: of the run.
        objective: what is trained; what it has frozen is not written.
        optimisers: by player.
        step: how many have been made.
        average: of the weights.

    Raises:
        TokenryError: if the checkpoint cannot be written (a full disk); those before it are untouched.
    """
    target = folder / f"step-{step:07d}"
    try:
        with whole_folder(target) as scratch:
            save_model(objective, str(scratch / _WEIGHTS))
            for player, optimiser in optimisers.items():
                save_file(_moments(optimiser), scratch / _optimiser_file(player))
            if average is not None:
                save_file(average.state(), scratch / _AVERAGE)
            (scratch / _STATE).write_text(json.dumps({"step": step}))
    except InputError as error:
        raise TokenryError(
            f"The checkpoint {target} could not be written ({error.__cause__}): make room and run again, "
            "the run goes on from the checkpoint before."
        ) from error
    for old in sorted(folder.glob("step-*"))[:-_KEPT]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    found = sorted(folder.glob(f"step-*/{_STATE}"))
    return found[-1].parent if found else None


def load_checkpoint(
    path: Path,
    objective: nn.Module,
    optimisers: Mapping[str, torch.optim.Optimizer] | None = None,
    *,
    averaged: bool = False,
) -> int:
    """Restore weights (and optimiser states) and return the number of steps they have seen.

    Args:
        path: the checkpoint.
        objective: of the shape that was saved.
        optimisers: by player, to go on training.
        averaged: take the running averages of the weights (``LoopSettings.ema``), to use them.

    Raises:
        TokenryError: if the checkpoint belongs to a differently shaped model or optimiser, or has no averages.
    """
    try:
        load_model(objective, path / _WEIGHTS)
        if averaged:
            _take_average(path, objective)
        for player, optimiser in (optimisers or {}).items():
            _restore(optimiser, load_file(path / _optimiser_file(player)))
    except (RuntimeError, ValueError, OSError, KeyError, InputError) as error:
        raise _does_not_fit(path, error) from error
    return int(json.loads((path / _STATE).read_text())["step"])


def load_average(path: Path, average: WeightAverage | None) -> None:
    """Restore the averages that a run goes on with.

    Raises:
        TokenryError: if the checkpoint has averages and the run keeps none, or the other way round, or has others.
    """
    file = path / _AVERAGE
    if average is None and file.exists():
        raise _does_not_fit(path, "it has averaged weights, which are not asked for")
    if average is not None:
        try:
            average.load(load_file(file))
        except (OSError, InputError) as error:
            raise _does_not_fit(path, error) from error


def _take_average(path: Path, objective: nn.Module) -> None:
    found = load_file(path / _AVERAGE)
    average = WeightAverage(dict(objective.named_parameters()), dict.fromkeys(found, 0.0))
    average.load(found)
    average.copy_to()


def _does_not_fit(path: Path, reason: object) -> TokenryError:
    return TokenryError(
        f"The checkpoint {path} does not fit this recipe ({reason}): remove it or choose another output folder."
    )


def _optimiser_file(player: str) -> str:
    """Of a training without players, `optimizer.safetensors`."""
    return ".".join(filter(None, ("optimizer", player, "safetensors")))


def _moments(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, entry in optimiser.state_dict()["state"].items()
        for key, value in entry.items()
    }


def _restore(optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in moments.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
