"""Schedule and optimiser of a training: how long, how fast, and what each player does otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from tokenry.tokens.errors import InputError, TokenryError

_A_PLAYERS_OWN: Final = ("lr", "warmup", "final", "lr_scale", "weight_decay", "betas", "clip", "ema")
_ADDED: Final = ("ema", "players")  # settings that runs which began before there were any know nothing of


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
        ema: decay of the running average of the weights (`tokenry.train.ema.WeightAverage`); 0 keeps none.
        players: player -> what it does otherwise, of ``lr``, ``warmup``, ``final``, ``lr_scale``, ``weight_decay``,
            ``betas``, ``clip`` and ``ema``.
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
    ema: float = 0.0
    players: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.checkpoint_every < 1:
            raise TokenryError(
                f"Steps and checkpoint_every must be at least 1, got {self.steps}, {self.checkpoint_every}"
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise TokenryError(f'Precision must be "no", "bf16" or "fp16", got {self.precision!r}')
        if not 0 <= self.ema < 1:
            raise InputError(
                f"The decay of averaged weights (ema) is at least 0 and below 1, got {self.ema}."
            )
        for player, changes in self.players.items():
            if unknown := sorted(changes.keys() - set(_A_PLAYERS_OWN)):
                raise InputError(
                    f"The player {player!r} cannot have {', '.join(unknown)} of its own, but any of "
                    f"{', '.join(_A_PLAYERS_OWN)}."
                )
            self.of(player)  # its values are checked like any

    def of(self, player: str) -> LoopSettings:
        """The settings by which a player trains."""
        return replace(self, players={}, **self.players.get(player, {}))

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step (counted from 0)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))

    def identity(self) -> dict[str, Any]:
        """What a run cannot change while it lasts, for `tokenry.train.resuming.claim`.

        Settings that came later are left out where they are not used: a run that began without them goes on.
        """
        content = asdict(self)
        del content["checkpoint_every"]
        return {name: value for name, value in content.items() if value or name not in _ADDED}
