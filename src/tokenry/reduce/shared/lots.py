"""Drawing lots among tokens, so that a picture draws the same ones in whatever batch it comes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.tokens import TokenView


def uniform(view: TokenView, seed: int) -> Float[Tensor, "items n"]:
    """Independent uniform numbers for each token: one stream per picture, of its pixels and the seed."""
    n = view.features.shape[1]
    rows = []
    for key in view.key.tolist():  # a handful of pictures, not tokens
        generator = torch.Generator().manual_seed((key * 1_000_003 + seed) % 2**63)
        # Drawn in float64 for the widest item first: a prefix of the stream does not depend on the padding.
        rows.append(torch.rand(n, generator=generator, dtype=torch.float64))
    return torch.stack(rows).float().to(view.features.device) if rows else view.features.new_zeros(0, n)
