"""What is trained: a module that turns a batch into a loss, and says what in it learns, plays, and stays as it is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from tokenry.tokens.errors import InputError
from tokenry.train.ema import WeightAverage

Batch = dict[str, Tensor]
Figures = dict[str, Tensor]

SOLE = ""
"""The one player of an objective that names none."""


class Objective(nn.Module):
    """A trainable module that turns a batch into a loss.

    The first dimension of every tensor of a batch counts its rows, so that several processes can share them; tensors
    without dimensions go to all. What is drawn at random in ``forward`` comes from torch's generator, which the loop
    seeds for each step and process; what all processes must draw alike (how many tokens to keep, say) from `shared`.

    Tensors that are needed for training only (a contrast head, say) are ordinary submodules: they are checkpointed with
    the rest. Teachers and other networks that do not learn are `frozen`.

    **Players.** A generator and its critic learn from different losses. `players` says whose each parameter is; every
    player has an optimiser, and if need be settings of its own (``LoopSettings.players``). In each step the loop calls
    ``forward`` once a turn, with the player's name in `player`, for that player's loss. Only its own parameters are
    given gradients, so a generator's loss may go through the critic. What one turn has made (a detached
    reconstruction) can be kept in an attribute for the next.

    Attributes:
        players: player -> patterns (``fnmatch``) of the names of its parameters, in the order of their turns. Every
            parameter is of one player. Empty: one optimiser for everything, and no turns.
        simultaneous: whether all players' gradients are those at the weights before the step, instead of each player
            finding the others moved.
        player: whose turn it is.
        step: which step it is, counted from 0 in each phase.
        average: the running average of the weights, if the loop keeps one.
    """

    players: ClassVar[Mapping[str, Sequence[str]]] = {}
    simultaneous: bool = False
    player: str = SOLE
    step: int = 0
    average: WeightAverage | None = None
    _seed: int = 0

    def __init__(self) -> None:
        super().__init__()
        self._frozen: dict[str, nn.Module] = {}

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss to minimise and named scalars to show, both from one batch."""
        raise NotImplementedError

    def turns(self) -> Sequence[str]:
        """Who moves in this step, in order: all players, unless a critic joins later or moves more often."""
        return tuple(self.players) or (SOLE,)

    def stepped(self) -> None:
        """Called when the optimisers have moved: for codebooks of moving averages, dead codes, teachers that follow.

        What comes of it must be the same in all processes (see `tokenry.train.processes.gathered`).
        """

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the options of a phase (`tokenry.train.phases.Phase`) that begins, or is taken up again.

        Raises:
            InputError: this objective has none.
        """
        if options:
            raise InputError(f"{type(self).__name__} has no options for a phase, got {', '.join(options)}.")

    # ------------------------------------------------------------------------------------------------- what is frozen

    def frozen(self, **modules: nn.Module) -> None:
        """Keep modules that do not learn: they move along to device and precision, and are neither trained nor saved.

        They become attributes of these names, in evaluation mode, and ask for no gradients. A module may hold parts
        that are submodules of this objective already, as a network does whose new layers alone are trained: those go on
        learning.
        """
        learning = {id(parameter) for parameter in self.parameters()}
        inside = {id(module) for module in self.modules()}
        for name, module in modules.items():
            for parameter in module.parameters():
                if id(parameter) not in learning:
                    parameter.requires_grad_(False)
            for part in module.modules():
                if id(part) not in inside:
                    part.training = False
            self._frozen[name] = module
            object.__setattr__(self, name, module)  # past nn.Module, for which it would be a submodule

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        for module in self._frozen.values():
            module._apply(fn, recurse)  # to a device, say
        return super()._apply(fn, recurse)

    # -------------------------------------------------------------------------------------------------- place in time

    def begin(self, seed: int, step: int) -> None:
        """Called by the loop before each step."""
        self._seed, self.step = seed, step

    def shared(self, name: str) -> torch.Generator:
        """A generator of this step, on the CPU, which is the same in all processes, in all turns, and after a resume.

        Args:
            name: of what is drawn; other names draw other numbers, the same name the same ones.
        """
        words = (self._seed, self.step, zlib.crc32(name.encode()))
        return torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))

    @contextmanager
    def averaged(self) -> Iterator[Self]:
        """Inside, the weights are their running averages, to validate or export them; as they are if none is kept."""
        if self.average is None:
            yield self
        else:
            with self.average.swapped():
                yield self
