"""The baseline that every method has to beat: a random choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.reduce.base import Scorer
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
        n = view.features.shape[1]
        rows = []
        for key in view.key.tolist():  # a handful of pictures, not tokens
            generator = torch.Generator().manual_seed((key * 1_000_003 + self.seed) % 2**63)
            # Drawn in float64 for the widest item first: a prefix of the stream does not depend on the padding.
            rows.append(torch.rand(n, generator=generator, dtype=torch.float64))
        return torch.stack(rows).float().to(view.features.device) if rows else view.features.new_zeros(0, n)
