"""What a host asks of a method that takes tokens away: where it acts, what it reads, and its answer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tokenry.tokens.needs import CutLike, Depth, Needs, Stage
from tokenry.tokens.positions import Positions
from tokenry.tokens.reduction import DenseReduction, Reduction
from tokenry.tokens.view import TokenView


@runtime_checkable
class Method(Protocol):
    """A method as a session runs it; `tokenry.reduce.Reducer` is the base class of those that tokenry has.

    A method acts at one or several *cuts*: points before a block of a tower. In the decoder, cut 0 is the way into the
    language model (stage INPUT) and cut K > 0 lies before layer K (stage LAYER). At each cut it is shown a `TokenView`
    and answers with a `Reduction`. It holds no state.
    """

    @property
    def slug(self) -> str:
        """Its name, for messages."""

    @property
    def stage(self) -> Stage:
        """The deepest place where it acts."""

    @property
    def position_rule(self) -> Positions:
        """What happens to position ids of the tokens that stay: KEEP or COMPACT."""

    @property
    def differentiable(self) -> bool:
        """Whether gradients of what the model makes of the tokens reach it, through its reduction's weights."""

    def cuts(self, depth: Depth) -> tuple[CutLike, ...]:
        """Where it acts, in the order in which tokens meet it: decoder layers (0 is the way in), or `Cut`s."""

    def needs(self, layer: int, depth: Depth) -> Needs:
        """What must be collected for the cut before decoder layer `layer`."""

    def apply(self, view: TokenView) -> Reduction | DenseReduction:
        """Which tokens go, and into which others they flow."""
