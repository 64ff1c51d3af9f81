"""What tokens of a Duo-LLM (arXiv 2410.10846) may choose: choices, routings made of them, and a record of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError

__all__ = [
    "LIMIT",
    "Choice",
    "Mix",
    "Routing",
    "Trace",
    "every_routing",
    "pattern",
    "random_patterns",
    "sample_routings",
]

LIMIT = 4096  # routings of a token that are tried: those of 12 layers, as in the paper


class Choice(IntEnum):
    """What a token does with the feed-forward part of a layer."""

    SMALL = 0
    BIG = 1
    SKIP = 2


@dataclass(frozen=True)
class Mix:
    """A routing for the training of routers, in which both feed-forward layers run on all tokens.

    Attributes:
        temperature: of the softmax over a router's outputs; as it nears 0, so does the mix a choice.
        gumbel: draw choices, with the gradient of the mix (straight-through), in place of mixing.
    """

    temperature: float = 1.0
    gumbel: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"The temperature of a mix must be above 0, got {self.temperature}")


Routing = str | Sequence[int] | Tensor | Mix


class Trace:
    """What was chosen while it was open, one forward pass of the model after the other."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._choices: list[Tensor] = []
        self._probabilities: list[Tensor] = []

    def add(self, choices: Int[Tensor, "b s"], probabilities: Float[Tensor, "b s c"] | None = None) -> None:
        """Note down what the tokens of one layer chose; called by the layers in order."""
        self._choices.append(choices)
        if probabilities is not None:
            self._probabilities.append(probabilities)

    @property
    def passes(self) -> list[Int[Tensor, "_ _ l"]]:
        """The choice of every column in every layer, pass by pass."""
        return self._passes(self._choices)

    @property
    def choices(self) -> Int[Tensor, "b s l"]:
        """The choice of every column in every layer; columns of later passes (decoding steps) follow.

        Raises:
            InputError: Nothing ran, or passes over different texts did: see `passes`.
        """
        return self._joined(self._choices)

    @property
    def probabilities(self) -> Float[Tensor, "b s l c"]:
        """What the routers thought of each choice, with its gradient; there are some for a `Mix` only."""
        return self._joined(self._probabilities)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        passes = self._passes(parts)
        if len({len(one) for one in passes}) > 1:
            raise InputError(
                f"Passes over {', '.join(str(len(one)) for one in passes)} texts do not follow each other: look at "
                "`passes`, or open a trace for each."
            )
        return torch.cat(passes, 1)

    def _passes(self, parts: list[Tensor]) -> list[Tensor]:
        if not parts:
            raise InputError("Nothing was traced: run the model inside the trace (probabilities need a Mix)")
        return [torch.stack(parts[i : i + self._layers], 2) for i in range(0, len(parts), self._layers)]


def pattern(name: str, layers: int, bigs: int) -> tuple[int, ...]:
    """Return a fixed routing with a number of big layers, which all tokens share.

    Args:
        name: Where they are: "first", "last", or "alternating", which spreads them evenly.
        layers: Number of layers.
        bigs: How many are big; all others are small.

    Raises:
        InputError: If there is no such pattern.
    """
    if not 0 <= bigs <= layers:
        raise InputError(f"Of {layers} layers 0 to {layers} can be big, got {bigs}")
    if name == "alternating":
        chosen = {i * layers // bigs for i in range(bigs)}
    elif name in ("first", "last"):
        chosen = set(range(bigs) if name == "first" else range(layers - bigs, layers))
    else:
        raise InputError(f"A pattern is called first, last or alternating, got {name!r}")
    return tuple(int(Choice.BIG if i in chosen else Choice.SMALL) for i in range(layers))


def random_patterns(layers: int, bigs: int, n: int, seed: int = 0) -> Int[Tensor, "n l"]:
    """Draw fixed routings with a number of big layers each, all small otherwise; some may be drawn twice.

    Raises:
        InputError: If more layers are to be big than there are.
    """
    if not 0 <= bigs <= layers or n < 1:
        raise InputError(
            f"Of {layers} layers 0 to {layers} can be big, in 1 pattern or more; got {bigs} and {n}"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(n, layers, generator=generator).argsort(1)
    return (order < bigs).long() * int(Choice.BIG)


def every_routing(
    layers: int, choices: int = 2, groups: int | None = None, limit: int = LIMIT
) -> Int[Tensor, "r l"]:
    """Return all routings, ``choices ** layers`` of them.

    Args:
        layers: Number of layers.
        choices: 2, or 3 with skip.
        groups: So many blocks of neighbouring layers choose together (30 layers in 6 groups: 64 routings).
        limit: How many are too many.

    Raises:
        InputError: If there would be more than the limit; the message says what to do.
    """
    group = _groups(layers, groups)
    n, free = choices ** (int(group[-1]) + 1), int(group[-1]) + 1
    if n > limit:
        raise InputError(
            f"{free} free choices among {choices} make {n} routings, more than {limit}: let layers choose in groups "
            f"(groups=...), try some only (routings=sample_routings(...)), or raise the limit."
        )
    digits = torch.arange(n)[:, None] // choices ** torch.arange(free - 1, -1, -1) % choices
    return digits[:, group]


def sample_routings(
    layers: int, n: int, *, choices: int = 2, groups: int | None = None, seed: int = 0
) -> Int[Tensor, "r l"]:
    """Draw routings for models with too many layers to try all; every number of big layers is as likely.

    Args:
        layers: Number of layers.
        n: How many, at most (routings drawn twice count once); all small and all big are always among them.
        choices: 2, or 3 with skip: layers that are not big are then small or skipped, as likely.
        groups: See `every_routing`.
        seed: Which ones.

    Raises:
        InputError: If fewer than 2 are asked for.
    """
    if n < 2:
        raise InputError(f"All small and all big are 2 routings already, got n={n}")
    group = _groups(layers, groups)
    free, generator = int(group[-1]) + 1, torch.Generator().manual_seed(seed)
    bigs = torch.randint(free + 1, (n - 2, 1), generator=generator)
    order = torch.rand(n - 2, free, generator=generator).argsort(1)
    other = torch.randint(choices - 1, (n - 2, free), generator=generator) * int(Choice.SKIP)
    drawn = torch.where(order < bigs, int(Choice.BIG), other)
    ends = torch.tensor([[int(Choice.SMALL)], [int(Choice.BIG)]]).expand(2, free)
    return torch.cat([ends, drawn]).unique(dim=0)[:, group]


def _groups(layers: int, groups: int | None) -> Int[Tensor, " l"]:
    """The group of every layer."""
    groups = layers if groups is None else groups
    if not 1 <= groups <= layers:
        raise InputError(f"{layers} layers make 1 to {layers} groups, got {groups}")
    return torch.arange(layers) * groups // layers
