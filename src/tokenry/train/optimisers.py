"""Optimisers of a training: whose each parameter is, what learns, and at which rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from tokenry.tokens.errors import InputError
from tokenry.train.objective import SOLE, Objective
from tokenry.train.settings import LoopSettings

EVERYTHING = ("*",)
"""The pattern of all names."""


def sides(objective: Objective) -> dict[str, dict[str, nn.Parameter]]:
    """Player -> its parameters by name, in the order of their turns; all of them `SOLE`'s where there are no players.

    Raises:
        InputError: if a parameter is of no player, or of several.
    """
    if not objective.players:
        return {SOLE: dict(objective.named_parameters())}
    found: dict[str, dict[str, nn.Parameter]] = {player: {} for player in objective.players}
    for name, parameter in objective.named_parameters():
        owners = [player for player, patterns in objective.players.items() if _matches(name, patterns)]
        if len(owners) != 1:
            raise InputError(
                f"Every parameter is of one player, and {name} is of {' and '.join(owners) or 'none'}: mend the "
                f"patterns in `{type(objective).__name__}.players`."
            )
        found[owners[0]][name] = parameter
    return found


def optimisers(
    objective: Objective, settings: LoopSettings, learn: Sequence[str] = EVERYTHING
) -> dict[str, torch.optim.AdamW]:
    """An AdamW for each player of whom something learns; what does not learn stops asking for gradients.

    Args:
        objective: whose parameters are trained.
        settings: rates and decays; a factor of 0 freezes.
        learn: patterns of the names of what learns.

    Raises:
        InputError: if nothing learns, if a pattern matches nothing, or if there are settings of a player who does not
            play.
    """
    owned = sides(objective)
    if unknown := sorted(settings.players.keys() - owned.keys()):
        raise InputError(
            f"There are settings of {', '.join(unknown)}, who is no player of {type(objective).__name__}: it has "
            f"{', '.join(player for player in owned if player) or 'none'}."
        )
    names = [name for name, _ in objective.named_parameters()]
    if idle := [pattern for pattern in learn if not any(fnmatchcase(name, pattern) for name in names)]:
        raise InputError(
            f"No parameter has a name like {', '.join(idle)}; there are {', '.join(names[:5])} ..."
        )
    made = {}
    for player, parameters in owned.items():
        own = settings.of(player)
        if groups := _groups(parameters, own, learn):
            made[player] = torch.optim.AdamW(groups, lr=own.lr, betas=own.betas, foreach=True)
    if not made:
        raise InputError("Nothing learns: all parameters are frozen, or there are none.")
    return made


def set_rates(optimiser: Any, settings: LoopSettings, step: int) -> None:
    """Give every group the learning rate of a step."""
    rate = settings.rate(step)
    for group in optimiser.param_groups:
        group["lr"] = settings.lr * group["factor"] * rate


@contextmanager
def alone(player: str, owned: Mapping[str, Mapping[str, nn.Parameter]]) -> Iterator[None]:
    """Inside, no parameter asks for gradients but those of one player that did before."""
    others = [
        parameter
        for other, parameters in owned.items()
        if other != player
        for parameter in parameters.values()
        if parameter.requires_grad
    ]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _groups(
    parameters: Mapping[str, nn.Parameter], settings: LoopSettings, learn: Sequence[str]
) -> list[dict[str, Any]]:
    """One parameter group a (factor, decay) pair."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        prefixes = [prefix for prefix in settings.lr_scale if name.startswith(prefix)]
        factor = settings.lr_scale[max(prefixes, key=len)] if prefixes else 1.0
        if not _matches(name, learn):
            factor = 0.0
        parameter.requires_grad_(factor != 0)
        if factor:
            decay = settings.weight_decay if parameter.ndim >= 2 and "embed" not in name else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "factor": factor}
        for (factor, decay), params in groups.items()
    ]
