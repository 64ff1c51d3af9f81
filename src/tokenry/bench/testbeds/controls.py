"""Bounds that no method may beat or be beaten by: told where the answer lies, turned round, with nothing left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.bench.reproduce.vqa.informed import Informed
from tokenry.reduce import Reducer, Scorer
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.shared.lots import uniform
from tokenry.tokens import HALF, BudgetLike, Depth, Reduction, Stage, TokenView


@dataclass(frozen=True, kw_only=True)
class Oracle(Informed, Scorer):
    """Keep the patches that overlap the regions of the answer, the most covered first, filled up at random.

    Attributes:
        budget: tokens kept per picture.
        seed: of what fills up.
    """

    slug: ClassVar[str] = "oracle"

    budget: BudgetLike = 0.25
    seed: int = 0

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """1 and the covered share where there is overlap, else lots below 1."""
        cover = self.cover(view)
        return torch.where(cover > 0, 1 + cover, uniform(view, self.seed))


@dataclass(frozen=True, kw_only=True)
class LeastByCls(FasterVLM):
    """[CLS] ranking upside down: keep the tokens that [CLS] looks at least."""

    slug: ClassVar[str] = "least-by-cls"

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """The negative of FasterVLM's score."""
        return -super().score(view)


@dataclass(frozen=True, kw_only=True)
class Nothing(Reducer):
    """Keep no visual token behind a share of the language model's layers.

    A budget of nothing is refused, since no user wants it; this is how it is measured what the others are worth.

    Attributes:
        after: the share of layers that run before; 0 lets nothing in.
    """

    slug: ClassVar[str] = "nothing"
    stage: ClassVar[Stage] = Stage.LAYER
    budget_is_bound: ClassVar[bool] = True

    budget: BudgetLike = 1
    after: float = 0.0

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Behind that share of the layers, and before the last in a model that has too few for such a share."""
        return (min(int(self.after * depth.decoder + HALF), depth.decoder - 1),)

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Nothing is kept."""
        return Reduction.from_mask(torch.zeros_like(view.valid), view.length)


@dataclass(frozen=True, kw_only=True)
class Thumbnail(Reducer):
    """Keep the tokens of the whole picture and none of its crops: what a model of tiles sees of a smaller picture."""

    slug: ClassVar[str] = "thumbnail"
    budget_is_bound: ClassVar[bool] = True

    budget: BudgetLike = 1.0

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Tile 0."""
        return Reduction.from_mask((view.tile == 0) & view.valid, view.length)
