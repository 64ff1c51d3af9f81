"""A connector as a session of `tokenry.hosts` runs it: a method whose answer is new tokens, not only fewer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.tokens import (
    Budget,
    DenseReduction,
    Depth,
    Needs,
    Positions,
    Reduction,
    Stage,
    TokenView,
    UnsupportedError,
)

if TYPE_CHECKING:
    from tokenry.models.vlm.connector import Connector


@dataclass(frozen=True, eq=False)
class AttachedConnector:
    """A connector in the place of a token-reducing method, on the way into the language model.

    Attributes:
        connector: the network.
        budget: how many tokens each item gets; None: the connector's own number.
    """

    connector: Connector
    budget: Budget | None

    @property
    def slug(self) -> str:
        """The connector's class, for messages."""
        return type(self.connector).__name__

    @property
    def stage(self) -> Stage:
        """On the way in."""
        return Stage.INPUT

    @property
    def position_rule(self) -> Positions:
        """A language model that is trained with a connector never sees the gaps of what is not there."""
        return Positions.COMPACT

    @property
    def differentiable(self) -> bool:
        """Not through weights: where gradients are recorded, its tokens are made anew (`_Written.apply`)."""
        return False

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before the first layer."""
        return (0,)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """What the connector reads."""
        return self.connector.needs

    def apply(self, view: TokenView) -> Reduction | DenseReduction:
        """The matrix that makes the connector's tokens; if it has none, where its tokens go, and the tokens."""
        view.check()
        keep = None if self.budget is None else self.budget.resolve(view.length, view.row)
        made = self.connector(view, keep)
        if made.source is not None:
            return made.source
        n = view.features.shape[1]
        places = torch.nn.functional.one_hot(made.anchor.clamp(min=0), n) * (made.anchor >= 0)[..., None]
        return _Written(
            places.to(torch.float32),
            made.length,
            made.anchor,
            view.length,
            self.connector,
            view,
            keep,
            made.values,
        )


@dataclass(frozen=True, eq=False)
class _Written(DenseReduction):
    """Tokens that are no mixture of others: the matrix only tells whose places they take.

    Attributes:
        connector, view, keep: what makes them.
        values: what it made, without a record for gradients.
    """

    connector: Connector
    view: TokenView
    keep: Int[Tensor, " b"] | None
    values: Float[Tensor, "b m d"]

    def apply(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The connector's tokens, made again where gradients are recorded.

        Raises:
            UnsupportedError: tokens that are not those of the view: features for deeper layers of the language model.
        """
        if not torch.equal(x, self.view.features):
            raise UnsupportedError(
                f"{type(self.connector).__name__} makes new tokens, and this model adds features of its encoder to "
                "them in several layers, for which it makes none. Use a connector that mixes tokens, such as "
                "PoolConnector."
            )
        if not torch.is_grad_enabled():
            return self.values.to(x.dtype)
        return self.connector(replace(self.view, features=x), self.keep).values.to(x.dtype)
