"""DivPrune: keep the tokens that are most different from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from tokenry.reduce.base import Reducer
from tokenry.reduce.shared.diverse import greedy_diverse, index_mask
from tokenry.tokens import BudgetLike, Positions, Reduction, TokenView


@dataclass(frozen=True, kw_only=True)
class DivPrune(Reducer):
    """Keep the subset whose nearest two tokens are as far apart as possible (max-min diversity), found greedily.

    *DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models*, arXiv 2503.02175. Looks at the cosine
    distances between the projected visual embeddings: no attention, no question. Starts at the token farthest from its
    nearest neighbour, then adds the token farthest from all chosen so far. Acts before the language model's first
    layer. Cost: one N x N similarity matrix, then k steps of O(N).

    Paper and code agree, but for what the code leaves open: distances are float64 here, a chosen token cannot be
    chosen again (the code may, among duplicates), a zero vector is at distance 1 from everything, every item of a
    batch is treated (the code: the first). Newline tokens between the rows of a picture are candidates like any other,
    as in the code.

    Attributes:
        budget: tokens kept per picture (paper: 9.8 %, 56 of 576).
    """

    slug: ClassVar[str] = "divprune"
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = 0.098

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Greedy max-min selection, in raster order."""
        if bool((keep == view.length).all()):
            return Reduction.identity(view.length, view.features.shape[1])
        picks = greedy_diverse(view.features, view.length, keep, rule="max")
        return Reduction.from_mask(index_mask(picks, view.features.shape[1]), view.length)
