"""The baseline that every method has to beat: a random choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from tokenry.reduce.base import Scorer
from tokenry.reduce.shared.lots import uniform
from tokenry.tokens import BudgetLike, TokenView


@dataclass(frozen=True, kw_only=True)
class RandomTokens(Scorer):
    """Keep a random subset: baseline, looks at nothing.

    The choice depends on `seed` and on the picture's own pixels, so the same picture keeps the same tokens whatever
    batch it comes in, and two pictures do not share one mask.

    Attributes:
        budget: tokens kept per picture.
        seed: another seed, another subset.
    """

    slug: ClassVar[str] = "random"

    budget: BudgetLike = 0.25
    seed: int = 0

    def score(self, view: TokenView) -> Float[Tensor, "items n"]:
        """Independent uniform numbers, one stream per picture."""
        return uniform(view, self.seed)
