"""What a connector is: the network between a vision encoder and a language model that makes the visual tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.hosts.reducing.session import Session
from tokenry.tokens import (
    Budget,
    BudgetLike,
    DenseReduction,
    Depth,
    InputError,
    Needs,
    Positions,
    Reduction,
    Stage,
    TokenView,
    UnsupportedError,
    prefix_mask,
)


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens that a connector gives to a language model, ragged like a `Reduction`.

    Attributes:
        values: a vector for each token; behind an item's `length` anything finite.
        length: tokens of each item.
        anchor: the token of the view whose place in the sequence each takes, ascending; -1 = padding.
        source: the matrix that made them out of the view's tokens, if they are such a mixture; None: a network's.
        losses: terms to be added to a training loss as they are.
    """

    values: Float[Tensor, "b m d"]
    length: Int[Tensor, " b"]
    anchor: Int[Tensor, "b m"]
    source: Reduction | DenseReduction | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        b, m = self.values.shape[:2]
        if self.length.shape != (b,) or self.anchor.shape != (b, m):
            raise InputError(
                f"Visual tokens are vectors [items, tokens, width] with a length for each item and an anchor for each "
                f"token; got {tuple(self.values.shape)}, {tuple(self.length.shape)} and {tuple(self.anchor.shape)}."
            )
        if bool(((self.anchor >= 0) != prefix_mask(self.length, m)).any()):
            raise InputError(
                f"Anchors are 0 or more on an item's tokens and -1 behind them; got {self.anchor.tolist()} for lengths "
                f"{self.length.tolist()}."
            )

    @classmethod
    def of(cls, view: TokenView, source: Reduction | DenseReduction) -> VisualTokens:
        """The mixture that a matrix makes of a view's tokens."""
        return cls(source.apply(view.features), source.count, source.anchor, source)


class Connector(nn.Module, ABC):
    """Connector of a vision-language model: what the encoder sees to what the language model is given.

    It is shown the same view as a training-free reducer, and told as they are how many tokens each item may have, so
    that one table compares both.
    """

    needs: ClassVar[Needs] = Needs()
    """What it reads beside the tokens themselves."""

    @abstractmethod
    def forward(self, view: TokenView, keep: Int[Tensor, " items"] | None = None) -> VisualTokens:
        """The visual tokens of a batch of items.

        Args:
            view: the items' tokens, as the model's own projector delivers them, and what `needs` asks for.
            keep: how many tokens each item gets; None: the connector's own number.

        Raises:
            InputError: numbers that the connector cannot give.
        """

    def attach(self, model: nn.Module, budget: BudgetLike | None = None) -> AbstractContextManager[Session]:
        """Run a model with this connector: ``with connector.attach(model, budget=64) as run: model.generate(...)``.

        Inside the block the model's own calls take the same inputs. The connector's tokens take the places of their
        anchors, the model's other visual tokens leave, and positions are counted anew, as in a prompt that had no more
        to begin with. `run` tells what it cost and where tokens sit, as for a reducer.

        Args:
            model: a vision-language model of transformers.
            budget: how many tokens each item gets; None: the connector's own number.

        Raises:
            UnsupportedError: a model that cannot run on other tokens than its own; the message says why.
        """
        limit = None if budget is None else Budget.of(budget)
        return Session(model, [_AttachedConnector(self, limit)])


class IdentityConnector(Connector):
    """Connector that hands on every token as it is: what a model does without one."""

    def forward(self, view: TokenView, keep: Int[Tensor, " items"] | None = None) -> VisualTokens:
        """Every token; `keep` can only ask for that."""
        if keep is not None and bool((keep != view.length).any()):
            raise InputError(
                f"The identity connector gives all of {view.length.tolist()} tokens, and was asked for {keep.tolist()}."
            )
        return VisualTokens.of(view, Reduction.identity(view.length, view.features.shape[1]))


class PoolConnector(Connector):
    """Average-pooling connector: means of squares of k x k tokens on each frame's grid.

    Args:
        stride: k, where no number of tokens is asked for.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        if stride < 1:
            raise InputError(f"Squares have a side of 1 token or more, got stride {stride}.")
        self.stride = stride

    def forward(self, view: TokenView, keep: Int[Tensor, " items"] | None = None) -> VisualTokens:
        """The means, in raster order.

        Args:
            view: items whose tokens fill a grid.
            keep: t h w / k^2 for a k that divides both sides of an item's grid.
        """
        wanted = [None] * len(view.length) if keep is None else keep.tolist()
        groups = torch.full_like(view.source, -1)
        for i, (grid, n) in enumerate(zip(view.grid.tolist(), view.length.tolist(), strict=True)):
            groups[i, :n] = self._squares(grid, n, wanted[i]).to(groups)
        return VisualTokens.of(view, Reduction.merge(groups, length=view.length))

    def _squares(self, grid: list[int], n: int, wanted: int | None) -> Int[Tensor, " n"]:
        """The square that each token of an item falls into, counted in raster order."""
        t, h, w = grid
        fits = [k for k in range(1, min(h, w) + 1) if h % k == w % k == 0 and t * h * w == n]
        k = self.stride if wanted is None else next((k for k in fits if n == wanted * k * k), 0)
        if k not in fits:
            possible = ", ".join(str(n // (k * k)) for k in fits) or "none, since they fill no grid"
            asked = f"squares of {self.stride} x {self.stride}" if wanted is None else f"{wanted} tokens"
            raise InputError(
                f"An item of {n} tokens on a grid of {t} x {h} x {w} cannot be pooled to {asked}; possible numbers: "
                f"{possible}."
            )
        rows, columns = torch.arange(h) // k, torch.arange(w) // k
        frames = torch.arange(t)[:, None, None]
        return ((frames * (h // k) + rows[:, None]) * (w // k) + columns).flatten()


@dataclass(frozen=True, eq=False)
class _AttachedConnector:
    """A connector as a session runs it: a method on the way into the language model whose answer is new tokens.

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
        places = F.one_hot(made.anchor.clamp(min=0), n) * (made.anchor >= 0)[..., None]
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
