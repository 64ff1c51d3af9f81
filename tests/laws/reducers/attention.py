"""Decoder attention for views, from random queries and keys, as an explicit matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.tokens import AttentionView

HEADS, WIDTH = 2, 4


@dataclass(frozen=True, eq=False)
class QKAttention(AttentionView):
    """Causal attention of a batch of left-padded sequences.

    Attributes:
        q, k: queries and keys [rows heads t d].
        columns: what the columns are [rows t]; -1 = padding, which sees nothing and is not seen.
    """

    q: Tensor
    k: Tensor
    columns: Tensor

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """The attention matrix [rows heads t t]; rows of padding are zero."""
        rows, t = self.columns.shape
        if rows == 0 or t == 0:
            return torch.zeros(rows, self.q.shape[1], t, t)
        real = self.columns >= 0
        seen = torch.ones(t, t, dtype=torch.bool).tril() & real[:, None, None, :] & real[:, None, :, None]
        logits = torch.einsum("rhqd,rhkd->rhqk", self.q, self.k) / math.sqrt(self.q.shape[-1])
        # Exponentials by hand: a row that sees nothing has no softmax. NaN in a seen key must spread, so no `where`.
        weights = (logits / temperature).masked_fill(~seen, -torch.inf)
        top = weights.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        weights = (weights - top).exp().masked_fill(~seen, 0)
        return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def row(self, query: Tensor | None = None) -> Tensor:
        """One query per row; by default the last column, which left padding makes the last token."""
        t = self.columns.shape[1]
        query = torch.full((len(self.columns),), t - 1) if query is None else query
        return self.probabilities()[torch.arange(len(query)), :, query]

    def keys(self) -> Tensor:
        """The keys; padding is zero."""
        return self.k.masked_fill((self.columns < 0)[:, None, :, None], 0)

    def mass(self, group: Tensor) -> Tensor:
        """Sums over a group of columns."""
        return self.probabilities().masked_fill(~group[:, None, None, :], 0).sum(-1)

    def propagate(self, p: Tensor, temperature: float = 1.0) -> Tensor:
        """One step of ``p @ probabilities``."""
        return torch.einsum("rhq,rhqk->rhk", p, self.probabilities(temperature))
