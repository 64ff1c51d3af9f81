"""VTC-CLS: keep the patches that [CLS] looks at, in several late blocks of the encoder together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.reduce.base import Scorer, layer_at
from tokenry.reduce.shared.tiles import balance_tiles
from tokenry.tokens import BudgetLike, Depth, Needs, Positions, TokenryError, TokenView

_ENSEMBLES = ("sum", "min", "max")


@dataclass(frozen=True, kw_only=True)
class VtcCls(Scorer):
    """Keep the visual tokens with the highest [CLS] attention, summed over the encoder's late blocks.

    *[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs*, arXiv 2412.05819. Looks at one attention
    row per block, `start` to `layer`, each averaged over heads and added up without normalisation; never at the
    question. Acts before the language model's first layer. Cost: one [CLS] row per block, O(N D) each.

    Paper and code agree on the sum; the code also offers `min` and `max`, which rank differently. The encoder's last
    block is left out, as LLaVA takes its features from the one before. The authors' script starts at block 16 of 24
    and tunes it per benchmark; here that is a share of depth, so that it means something in other encoders. The paper
    treats single pictures; one cut into tiles keeps the same number in every tile, like FasterVLM. The encoder must
    have a [CLS] token.

    Attributes:
        budget: tokens kept per picture (paper: 64, 128 or 256 of 576).
        start: first block read: a number (negative: from the end) or a share of depth, at most `layer`.
        layer: last block read; -2 is the block that delivers LLaVA's features. ``start=layer`` is FasterVLM.
        ensemble: how a token's rows are put together: "sum", "min" or "max".
    """

    slug: ClassVar[str] = "vtc-cls"
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = 0.25
    start: int | float = 2 / 3
    layer: int = -2
    ensemble: str = "sum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ensemble not in _ENSEMBLES:
            raise TokenryError(f"vtc-cls: ensemble is one of {', '.join(_ENSEMBLES)}, got {self.ensemble!r}.")

    def blocks(self, depth: Depth) -> tuple[int, ...]:
        """The encoder blocks whose [CLS] rows are read."""
        first, last = layer_at(self.start, depth.encoder), layer_at(self.layer, depth.encoder)
        if isinstance(self.start, float):
            first = min(first, last)  # two thirds of a shallow encoder may be its last block
        if first > last:
            raise TokenryError(
                f"vtc-cls reads blocks start..layer; {self.start}..{self.layer} is {first}..{last}."
            )
        return tuple(range(first, last + 1))

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The [CLS] rows of the late blocks."""
        return Needs(cls_layers=self.blocks(depth))

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The ensemble of head-mean [CLS] probabilities, as a rank within each tile."""
        rows = torch.stack([view.cls_attention(block).mean(1) for block in self.blocks(view.depth)])
        match self.ensemble:
            case "min":
                score = rows.amin(0)
            case "max":
                score = rows.amax(0)
            case _:
                score = rows.sum(0)
        return balance_tiles(score, view.tile)
