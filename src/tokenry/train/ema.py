"""Running average of the weights of a training (exponential moving average, EMA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tokenry.tokens.errors import InputError


class WeightAverage:
    """Exponential moving average of parameters: ``average <- d * average + (1 - d) * weights`` after every step.

    It begins with the weights as they are. So that they do not weigh on it for 1 / (1 - decay) steps, ``d`` is
    ``min(decay, (1 + n) / (10 + n))`` at the n-th step. Averages are float32 whatever the weights are.

    Args:
        parameters: by name.
        decays: name -> decay, of the parameters that are averaged.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decays: Mapping[str, float]) -> None:
        self._parameters = {name: parameters[name] for name in decays}
        self._decays = dict(decays)
        self._values = {
            name: parameter.detach().to(torch.float32, copy=True)
            for name, parameter in self._parameters.items()
        }

    def update(self, step: int) -> None:
        """Take the weights in, after step number `step` (from 0)."""
        for decay in set(self._decays.values()):
            names = [name for name, own in self._decays.items() if own == decay]
            average = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
            average(
                [self._values[name] for name in names],
                [self._parameters[name].detach().float() for name in names],
                step,
            )

    @torch.no_grad()
    def copy_to(self) -> None:
        """Write the averages over the weights, for good."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._values[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the weights are the averages; afterwards they are, bit for bit, what they were."""
        before = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.copy_to()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(before[name])

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._values)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the averages of another time.

        Raises:
            InputError: if they are of other parameters.
        """
        if state.keys() != self._values.keys() or any(
            state[name].shape != value.shape for name, value in self._values.items()
        ):
            raise InputError(
                f"The averages are of {len(state)} parameters that are not the {len(self._values)} of this training: "
                "choose another output folder."
            )
        for name, value in self._values.items():
            value.copy_(state[name])
