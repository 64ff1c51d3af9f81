"""FasterVLM: keep the patches that [CLS] looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenry.reduce.base import Scorer, layer_at
from tokenry.reduce.shared.tiles import balance_tiles
from tokenry.tokens import BudgetLike, Depth, Needs, Positions, TokenView


@dataclass(frozen=True, kw_only=True)
class FasterVLM(Scorer):
    """Keep the visual tokens with the highest [CLS] attention of the encoder block that delivers the features.

    *[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster*, arXiv
    2412.01818. Looks at one attention row of the vision encoder, never at the question. Acts before the language
    model's first layer, so its whole prefill and cache are short. Cost: one [CLS] row, O(N D).

    A picture cut into tiles keeps the same number in the thumbnail and in every crop, each by its own row; a video the
    same number in every frame. Tokens that come from no tile (newlines between rows) go first, as in the authors'
    code, which packs tiles without them.

    Paper and code agree. The encoder must have a [CLS] token; a SigLIP tower is refused rather than approximated.

    Attributes:
        budget: tokens kept per picture (paper: 288, 144, 58 or 29 of 576).
        layer: encoder block whose attention is read; -2 is the block that delivers LLaVA's features.
    """

    slug: ClassVar[str] = "fastervlm"
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = 0.25
    layer: int = -2

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The [CLS] row of one encoder block."""
        return Needs(cls_layers=(layer_at(self.layer, depth.encoder),))

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The head-mean [CLS] probability of each token, as a rank within its tile."""
        row = view.cls_attention(layer_at(self.layer, view.depth.encoder))
        return balance_tiles(row.mean(1), view.tile)
