"""The connectors that the laws hold to: small ones of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tokenry.models import Connector, IdentityConnector, PoolConnector, VisualTokens
from tokenry.tokens import TokenView, gather_rows


class Mixer(Connector):
    """What trained connectors have and the plain ones have not: weights, and tokens that are no mixture of others.

    So many tokens of an item, evenly apart, go through a layer with a nonlinearity.
    """

    def __init__(self, number: int, width: int) -> None:
        super().__init__()
        self.number, self.layer = number, nn.Linear(width, width)

    def forward(self, view: TokenView, keep: Int[Tensor, " items"] | None = None) -> VisualTokens:
        count = torch.full_like(view.length, self.number).minimum(view.length) if keep is None else keep
        at = torch.arange(int(count.max()) if len(count) else 0)
        index = (at * view.length[:, None] // count[:, None].clamp(min=1)).masked_fill(
            at >= count[:, None], -1
        )
        return VisualTokens(torch.tanh(self.layer(gather_rows(view.features, index))), count, index)


@dataclass(frozen=True)
class Member:
    """A connector for tests.

    Attributes:
        build: makes it for tokens of a width, the same at every call.
        count: how many tokens it makes of so many, on a grid of even sides.
        able, unable: numbers that it can be asked for, of 4 x 4 tokens, and others.
        budget: one for 6 x 6 tokens.
    """

    build: Callable[[int], Connector]
    count: Callable[[int], int]
    able: tuple[int, ...]
    unable: tuple[int, ...]
    budget: int


def _mixer(width: int) -> Connector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixer(4, width)


MEMBERS: dict[str, Member] = {
    "identity": Member(lambda width: IdentityConnector(), lambda n: n, (16,), (1, 15), 36),
    "pool": Member(lambda width: PoolConnector(2), lambda n: n // 4, (1, 4, 16), (2, 8, 15), 9),
    "with-weights": Member(_mixer, lambda n: 4, (1, 4, 5, 16), (), 9),
}
