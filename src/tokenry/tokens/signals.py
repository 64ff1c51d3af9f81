"""What a codec takes and gives back: the kind, the layout and the range of a signal."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from torch import Tensor

from tokenry.tokens.errors import InputError


class Signal(StrEnum):
    """A kind of signal, as a tensor [items, channels, *axes]."""

    AUDIO = "audio"
    IMAGE = "image"
    VIDEO = "video"
    VOLUME = "volume"
    POINTS = "points"

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of its axes behind the channels."""
        return _AXES[self]


_AXES: Final = {
    Signal.AUDIO: ("samples",),
    Signal.IMAGE: ("height", "width"),
    Signal.VIDEO: ("frames", "height", "width"),
    Signal.VOLUME: ("depth", "height", "width"),
    Signal.POINTS: ("points",),
}


@dataclass(frozen=True)
class SignalSpec:
    """The signals that a codec takes.

    Attributes:
        kind: of signal.
        channels: colours, loudspeakers, coordinates.
        low, high: the range of a number; what lies outside is not refused, since noise and filters overshoot.
        multiple: along each axis, sizes are multiples of this ...
        first: ... and so much more: a causal video codec takes 1 + 4 m frames.
        size: the only size that is taken; None: any.
        rate: samples or frames a second; None where there is no time, or any rate will do.
    """

    kind: Signal
    channels: int
    low: float
    high: float
    multiple: tuple[int, ...]
    first: tuple[int, ...] | None = None
    size: tuple[int, ...] | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        axes = self.kind.axes
        lists = [part for part in (self.multiple, self.first, self.size) if part is not None]
        if any(len(part) != len(axes) for part in lists):
            raise InputError(
                f"A signal of kind {self.kind} has the axes {', '.join(axes)}, and one number for each; got {lists}."
            )
        least = min(self.channels, *self.multiple, *(self.size or ()))
        if least < 1 or min(self.first or (0,)) < 0 or not self.low < self.high:
            raise InputError(
                f"Channels, multiples and sizes are at least 1 and the range goes up; got {self.channels}, {lists} and "
                f"{self.low} to {self.high}."
            )

    def check(self, x: Tensor) -> None:
        """Refuse what is no batch of such signals.

        Raises:
            InputError: another number of axes or channels, a size that is not taken, whole numbers, NaN or infinity.
        """
        axes = self.kind.axes
        if x.ndim != 2 + len(axes) or x.shape[1] != self.channels or not x.is_floating_point():
            raise InputError(
                f"Expected floating-point numbers [items, {self.channels} channels, {', '.join(axes)}] in "
                f"{self.low:g} to {self.high:g}; got {x.dtype} of shape {tuple(x.shape)}."
            )
        for i, (name, have) in enumerate(zip(axes, x.shape[2:], strict=True)):
            first, multiple = (self.first or (0,) * len(axes))[i], self.multiple[i]
            if have < max(first, 1) or (have - first) % multiple:
                wanted = f"a multiple of {multiple}" if not first else f"{first} and a multiple of {multiple}"
                raise InputError(f"The {name} of a signal must be {wanted}, got {have}: resize or pad it.")
            if self.size is not None and have != self.size[i]:
                raise InputError(f"The {name} of a signal must be {self.size[i]}, got {have}: resize it.")
        if not bool(x.isfinite().all()):
            raise InputError(
                f"Items {(~x.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()} hold NaN or infinity."
            )
