"""What a token-reducing method is: a frozen dataclass that turns a view of tokens into a `Reduction`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.tokens import (
    HALF,
    Budget,
    BudgetLike,
    Cut,
    CutLike,
    Depth,
    Needs,
    Positions,
    Reduction,
    Stage,
    TokenryError,
    TokenView,
    Tower,
)
from tokenry.tokens.precision import without_autocast

if TYPE_CHECKING:
    from tokenry.hosts import Session

WEIGHTS: Final = "weights"
"""Marks a field that holds weights (its metadata), and names them in a configuration."""

CONFIG_VERSION = 1
"""Written into every saved configuration; raised when a field changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class Reducer(ABC):
    """A method: its fields are its hyperparameters, with the paper's defaults. It holds no state and is safe to share.

    A method acts at one or several *cuts*: points before a decoder layer, where cut 0 is the way into the language
    model (stage INPUT) and cut K > 0 lies before layer K (stage LAYER). At each cut it is shown a `TokenView` and
    answers with a `Reduction`.

    Attributes:
        budget: how many visual tokens are left after the method's last cut (see `Budget`; anything that `Budget.of`
            reads is accepted).
        positions: whether the tokens that stay keep their position ids ("keep"), are renumbered ("compact"), or what
            the paper does ("paper"). Papers differ, and on many models the rule costs more than the selection; so all
            methods keep them unless told otherwise.
    """

    slug: ClassVar[str]
    """Name in the catalogue."""
    paper_positions: ClassVar[Positions] = Positions.KEEP
    """What the paper does with position ids."""
    stage: ClassVar[Stage] = Stage.INPUT
    """The deepest place where the method acts."""
    budget_is_bound: ClassVar[bool] = False
    """Whether fewer tokens than the budget may stay where it is a count or a share."""
    differentiable: ClassVar[bool] = False
    """Whether gradients of what the model makes of the tokens reach the method, through its reduction's weights."""

    budget: BudgetLike
    positions: Positions | str = Positions.KEEP

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", Budget.of(self.budget))
        object.__setattr__(self, "positions", Positions.of(self.positions))

    # --- what a method says about itself -------------------------------------------------------------------------

    def cuts(self, depth: Depth) -> tuple[CutLike, ...]:
        """Where the method acts, in the order in which tokens meet it: decoder layers (0 is the way in), or `Cut`s."""
        return (0,)

    def decoder_cuts(self, depth: Depth) -> tuple[int, ...]:
        """The decoder layers among its cuts."""
        cuts = (Cut.of(cut) for cut in self.cuts(depth))
        return tuple(cut.block for cut in cuts if cut.tower is Tower.DECODER)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """What must be collected for the cut before decoder layer `layer`."""
        return Needs()

    def keep(self, view: TokenView) -> Int[Tensor, " items"]:
        """How many tokens each item keeps at this cut."""
        return self.limit.resolve(view.length, view.row)

    @abstractmethod
    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """The method itself.

        Args:
            view: the items' tokens and what was asked for in `needs`.
            keep: tokens each item keeps (an upper bound where the budget is adaptive).
        """

    def apply(self, view: TokenView) -> Reduction:
        """Resolve the budget for this view and reduce it: without autocast, which would score in half precision, and
        without gradients, unless the method is differentiable.

        Protected tokens are no concern of a method's: it is shown the others, with what the budget leaves for them.

        Raises:
            ReductionError: the view's features, its text, or attention that the method reads, are NaN or infinite.
        """
        learned = self.differentiable and torch.is_grad_enabled()
        with torch.set_grad_enabled(learned), without_autocast(view.features):
            view.check()
            keep = self.keep(view)
            if not bool(view.protected.any()):
                return self.reduce(view, keep)
            spare = (keep - view.protected.sum(1)).clamp(min=0)
            # Where protected tokens use the budget up, the method is not asked: few can leave nothing at all.
            free = view.valid & ~view.protected & (spare > 0)[:, None]
            some = self.reduce(view.only(Reduction.from_mask(free, view.length).anchor), spare)
            return some.among(free, view.protected, view.length)

    @property
    def limit(self) -> Budget:
        """The budget, as the `Budget` it was read into."""
        return Budget.of(self.budget)

    @property
    def position_rule(self) -> Positions:
        """What happens to position ids: KEEP or COMPACT."""
        return self.paper_positions if self.positions is Positions.PAPER else Positions(self.positions)

    # --- how it is used ------------------------------------------------------------------------------------------

    def __call__(self, model: nn.Module, **options: Any) -> AbstractContextManager[Session]:
        """``with method(model) as run:`` - short for ``tokenry.reduced(model, method)``."""
        from tokenry.hosts import Session

        return Session(model, [self], **options)

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values; `from_json` (or `tokenry.reducer`) reads it back."""
        return {"method": self.slug, "version": CONFIG_VERSION} | {
            name: _to_json(getattr(self, name)) for name in self.settings()
        }

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The fields that a configuration holds: all but weights."""
        return tuple(f.name for f in fields(cls) if not f.metadata.get(WEIGHTS))

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            TokenryError: another method's configuration, an unknown field, or a version this release cannot read.
        """
        config = dict(config)
        slug, version = config.pop("method", cls.slug), config.pop("version", CONFIG_VERSION)
        if slug != cls.slug or version != CONFIG_VERSION:
            raise TokenryError(
                f"This configuration is {slug!r}, version {version!r}; {cls.__name__} reads {cls.slug!r}, version "
                f"{CONFIG_VERSION}."
            )
        known = cls.settings()
        if unknown := sorted(set(config) - set(known)):
            raise TokenryError(
                f"{cls.slug} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}."
            )
        if "budget" in config:
            config["budget"] = Budget.from_json(config["budget"])
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        return cls(**settings)


@dataclass(frozen=True, kw_only=True)
class Scorer(Reducer):
    """The common case: a method that scores tokens; the best-scored are kept, in raster order."""

    @abstractmethod
    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """One number per token; higher = keep. Padding may hold anything."""

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Keep the best-scored tokens of each item; equal scores: the earlier token."""
        return Reduction.top(self.score(view), keep, view.length)


def _to_json(value: Any) -> Any:
    if isinstance(value, Budget):
        return value.to_json()
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def layer_at(share: int | float, depth: int) -> int:
    """A layer given as a share of depth (0.875 of 32 = 28), or as a number (28, or -2 from the end).

    Raises:
        TokenryError: the layer does not exist.
    """
    layer = int(share * depth + HALF) if isinstance(share, float) else share
    layer = layer + depth if layer < 0 else layer
    if not 0 <= layer < depth:
        raise TokenryError(f"Layer {share!r} does not exist in a stack of {depth} layers.")
    return layer
