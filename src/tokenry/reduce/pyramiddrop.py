"""PyramidDrop: at the end of each stage of the language model, drop the same share again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.reduce.base import Scorer, layer_at
from tokenry.tokens import (
    HALF,
    BudgetLike,
    Depth,
    Needs,
    Positions,
    ReadAttention,
    Stage,
    TokenryError,
    TokenView,
)


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(Scorer):
    """Drop a share of the visual tokens at several depths, by the attention that the instruction's last token gives.

    *PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction*, arXiv
    2410.17247. Before layer e it looks at one row of layer e's *own* attention, on the tokens as they are then, the
    mean over heads (FastV reads the layer just executed). Positions are renumbered per stage, so the text after the
    picture moves closer. Counts are shares of the *original* number of tokens. Cost: one decoder row per cut plus the
    keys of the tokens at hand, O(T D D_kv).

    `budget` is what is left after the last cut: with shares b and m cuts, b^(1/m), b^(2/m), ..., b of the tokens stay
    (0.125 and three cuts: 1/2, 1/4, 1/8, the paper's lambda = 0.5); a count is approached geometrically in the same
    way. A schedule (``{8: 0.5, 16: 0.25, 24: 0.125}``) says everything itself and replaces `layers`.

    Where this differs: the authors floor counts, here they are rounded as all budgets are; their code handles one
    picture per prompt and right padding, here every picture keeps its own share and padding does not matter. In
    training the paper ranks by the mean row of all positions that precede an answer; a view does not know the labels,
    so the last token of the sequence is the query there too.

    Attributes:
        budget: tokens kept per picture after the last cut, or a schedule of shares of the original count.
        layers: the cuts, as shares of depth or layers; unused with a schedule.
    """

    slug: ClassVar[str] = "pyramiddrop"
    stage: ClassVar[Stage] = Stage.LAYER
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = 0.125
    layers: tuple[int | float, ...] = (0.25, 0.5, 0.75)

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before the layers of the schedule, or at the given depths."""
        if self.limit.schedule is not None:
            cuts = [layer for layer, _ in self.limit.cuts(depth.decoder)]
        else:
            cuts = [layer_at(layer, depth.decoder) for layer in self.layers]
        if not cuts or cuts[0] < 1 or any(b <= a for a, b in pairwise(cuts)):
            raise TokenryError(
                f"pyramiddrop cuts before distinct, ascending layers from 1 on; its settings give {cuts} in a decoder "
                f"of {depth.decoder} layers. Set `layers` or a schedule that fits."
            )
        return tuple(cuts)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The attention of the layer about to run."""
        return Needs(attention=ReadAttention.NEXT)

    def keep(self, view: TokenView) -> Int[Tensor, " items"]:
        """The count of this cut: a share of what the method first met, never more than is left."""
        cuts = self.cuts(view.depth)
        if view.layer not in cuts:
            raise TokenryError(f"pyramiddrop cuts before layers {cuts}, not before {view.layer}.")
        if self.limit.schedule is not None:
            return (
                dict(self.limit.cuts(view.depth.decoder))[view.layer]
                .resolve(view.entry, view.row)
                .minimum(view.length)
            )
        last = self.limit.resolve(view.entry, view.row)
        start = view.entry.double()
        rate = (
            last / start.clamp(min=1)
            if self.limit.share is None
            else torch.full_like(start, self.limit.share)
        )
        # A share's decay must not be bent by the rounding of the last count: hence `rate`, not last / start.
        wanted = torch.floor(start * rate ** ((cuts.index(view.layer) + 1) / len(cuts)) + HALF).to(last.dtype)
        return wanted.maximum(last).minimum(view.length)

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The head-mean attention that each token gets from the last token of its sequence."""
        return view.of_columns(view.attention.row().mean(1))
