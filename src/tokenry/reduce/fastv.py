"""FastV: after an early layer, keep the visual tokens that the last prompt token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenry.reduce.base import Scorer, layer_at
from tokenry.tokens import BudgetLike, Depth, Needs, ReadAttention, Stage, TokenryError, TokenView


@dataclass(frozen=True, kw_only=True)
class FastV(Scorer):
    """Keep the visual tokens with the highest attention from the last prompt token, read in the layer before the cut.

    *An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language Models*,
    arXiv 2403.06764. Looks at one attention row of decoder layer K-1, averaged over heads. Acts once, before layer K:
    layers 0..K-1 run (and cache) everything, the others only what is left. Nothing is chosen again while decoding.
    Cost: one decoder row, O(T D).

    The paper's R is the share *removed*; `budget` is the share kept (R = 0.5: ``budget=0.5``). Tokens that stay keep
    their position ids. One of the authors' cache scripts selects anew at every decoding step; that contradicts the
    paper and is not copied. Their control at K = 0, a random choice, is the method ``random``. The paper has one
    picture per prompt; with several, each keeps its own share.

    Attributes:
        budget: tokens kept per picture from layer K on.
        layer: K, the first decoder layer that runs on the shorter sequence (a number, or a share of depth).
    """

    slug: ClassVar[str] = "fastv"
    stage: ClassVar[Stage] = Stage.LAYER

    budget: BudgetLike = 0.5
    layer: int | float = 2

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before layer K, once."""
        cut = layer_at(self.layer, depth.decoder)
        if cut == 0:
            raise TokenryError(
                f"fastv reads the layer before its cut; layer={self.layer!r} has none. Use at least 1."
            )
        return (cut,)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The attention of layer K-1, as it was executed."""
        return Needs(attention=ReadAttention.PREVIOUS)

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The head-mean attention that each token gets from the last token of its sequence."""
        return view.of_columns(view.attention.row().mean(1))
