"""Signals that wait until a training step is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Self

_HELD: Final = (signal.SIGINT, signal.SIGTERM)


class HeldSignals:
    """Ctrl-C (and SIGTERM, where somebody handles it) between ``with`` and its end, held back until `stop`.

    A step that is broken off in the middle leaves weights and moments that no step has made: going on from them is not
    going on. A second signal is not held back, for a step may take long. Outside the main thread nothing is held.

    Attributes:
        pending: whether a signal waits.
    """

    def __init__(self) -> None:
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: int | None = None

    @property
    def pending(self) -> bool:
        """Whether a signal waits."""
        return self._waiting is not None

    def stop(self) -> None:
        """Hand the signal to whom it was meant for.

        Raises:
            KeyboardInterrupt: usually; whatever the handler raises.
        """
        number, self._waiting = self._waiting, None
        if number is None:
            raise KeyboardInterrupt  # another process was asked to stop
        self._before[number](number, None)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _HELD:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.pending:
            self.stop()

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            self._before[number](number, frame)
        self._waiting = number
