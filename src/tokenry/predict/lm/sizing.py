"""How many guesses a forward pass should judge: as many as this machine and this text repay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tokenry.tokens.errors import InputError


@runtime_checkable
class Sizing(Protocol):
    """Chooses the size of the next tree."""

    def nodes(self) -> int:
        """Most nodes beside the root."""
        ...

    def learn(self, nodes: int, path: Sequence[int]) -> None:
        """See which nodes of a tree with that many were accepted (the root, node 0, always is)."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Always the same number of nodes."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"A draft has no fewer than 0 nodes beside its root, got {self.size}.")

    def nodes(self) -> int:
        """See `Sizing.nodes`."""
        return self.size

    def learn(self, nodes: int, path: Sequence[int]) -> None:
        """Nothing to learn."""


@dataclass(eq=False)
class Adaptive:
    """The size with the best expected speed: tokens written per pass over the pass's measured time.

    A proposer puts its better guesses first, so a smaller tree is the beginning of a larger one, and a pass over many
    nodes also tells what a smaller tree would have given. What a size gives is a running mean over the passes that were
    at least that large. A larger tree than the best is tried when the last guess of a tree was right, and otherwise now
    and then, or it would never be known that drafts have become worth while; after each failure that waits twice as
    long, so that text that cannot be guessed costs little.

    Attributes:
        latency: nodes in a pass, the root included -> time, in units of a pass over the root alone, as
            measured on this machine.
        memory: share of a running mean that the newest pass makes up.
        patience: passes before a larger tree is first tried without a sign that it would help.
        longest_wait: most passes between two such trials.
    """

    latency: Mapping[int, float]
    memory: float = 0.1
    patience: int = 2
    longest_wait: int = 64
    _given: dict[int, float] = field(init=False, repr=False)
    _wait: int = field(init=False, repr=False)
    _idle: int = field(init=False, repr=False, default=0)
    _hungry: bool = field(init=False, repr=False, default=False)

    def __post_init__(self) -> None:
        if self.latency.get(1) != 1 or min(self.latency.values()) <= 0:
            raise InputError(
                f"Latencies are ratios to a pass over the root alone, which is 1; got {dict(self.latency)}."
            )
        self._given = {size - 1: 1.0 for size in sorted(self.latency)}
        self._wait = self.patience

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes to choose from, beside the root."""
        return tuple(self._given)

    def speed(self, size: int) -> float:
        """Expected speed-up of a size over plain decoding."""
        return self._given[size] / self.latency[size + 1]

    def best(self) -> int:
        """The size that is expected to be fastest."""
        return max(self.sizes, key=self.speed)

    def nodes(self) -> int:
        """See `Sizing.nodes`."""
        best = self.best()
        if best == self.sizes[-1]:
            return best
        self._idle += 1
        if not self._hungry and self._idle <= self._wait:
            return best
        if not self._hungry:
            self._wait = min(self.longest_wait, 2 * self._wait)
        self._idle, self._hungry = 0, False
        return self.sizes[self.sizes.index(best) + 1]

    def learn(self, nodes: int, path: Sequence[int]) -> None:
        """See `Sizing.learn`."""
        written = 1.0
        for size in self.sizes:
            if size <= nodes:
                written = sum(1 for node in path if node <= size)
                self._given[size] += self.memory * (written - self._given[size])
            # More guesses are worth no less than fewer.
            self._given[size] = max(self._given[size], *(self._given[s] for s in self.sizes if s <= size))
        if len(path) > 1:
            self._wait = self.patience
            self._hungry = path[-1] == nodes
