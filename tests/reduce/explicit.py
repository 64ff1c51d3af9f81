"""The attention of an explicit matrix, and sequences to put items into: what the methods' examples are written on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.tokens import AttentionView, Depth, TokenView

PADDING, BEFORE, VISUAL, AFTER = -1, 0, 1, 2


@dataclass(frozen=True, eq=False)
class ExplicitAttention(AttentionView):
    """Causal attention from a matrix of logits [rows heads t t]; `columns` says which are padding."""

    logits: Tensor
    columns: Tensor
    causal: bool = True

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Softmax over what each query sees; padding sees and is seen by nothing."""
        t = self.logits.shape[-1]
        sees = (
            torch.ones(t, t, dtype=torch.bool).tril() if self.causal else torch.ones(t, t, dtype=torch.bool)
        )
        real = self.columns >= 0
        sees = sees & real[:, None, None, :] & real[:, None, :, None]
        scores = (self.logits.float() / temperature).masked_fill(~sees, -torch.inf)
        return torch.where(real[:, None, :, None], scores.softmax(-1), 0).nan_to_num(0)

    def row(self, query: Tensor | None = None) -> Tensor:
        """The last real token's row, or the given ones."""
        t = self.logits.shape[-1]
        last = torch.where(self.columns >= 0, torch.arange(t), -1).amax(1) if query is None else query
        return self.probabilities()[torch.arange(len(last)), :, last]

    def mass(self, group: Tensor) -> Tensor:
        """Sum over the group's columns."""
        return (self.probabilities() * group[:, None, None, :]).sum(-1)

    def propagate(self, p: Tensor, temperature: float = 1.0) -> Tensor:
        """``p @ probabilities``."""
        return torch.einsum("rhq,rhqk->rhk", p, self.probabilities(temperature))


def sequence_view(
    columns: list[list[int]],
    logits: Tensor,
    *,
    layer: int,
    depth: int,
    entry: int | None = None,
    causal: bool = True,
) -> TokenView:
    """One item per row: its tokens are the row's visual columns."""
    kinds = torch.tensor(columns)
    where = [row.eq(VISUAL).nonzero()[:, 0] for row in kinds]
    length = torch.tensor([len(w) for w in where])
    width = int(length.max())
    slot = torch.full((len(where), width), -1)
    for i, w in enumerate(where):
        slot[i, : len(w)] = w
    return TokenView.of(
        torch.zeros(len(where), width, 4),
        length=length,
        entry=length if entry is None else torch.full_like(length, entry),
        layer=layer,
        depth=Depth(encoder=0, decoder=depth),
        slot=slot,
        columns=kinds,
        attention=ExplicitAttention(logits, kinds, causal),
    )


def explicit(view: TokenView) -> ExplicitAttention:
    """The attention that a `sequence_view` was made with."""
    attention = view._attention
    assert isinstance(attention, ExplicitAttention)
    return attention


def last_row(scores: list[float]) -> Tensor:
    """Logits [1 1 t t] whose last row has the given probabilities (they sum to 1)."""
    t = len(scores)
    logits = torch.zeros(1, 1, t, t)
    logits[0, 0, -1] = torch.tensor(scores).log()
    return logits


def directions(*degrees: float) -> Tensor:
    """Unit vectors in the plane, as one item [1 n 2]."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angle.cos(), angle.sin()], 1)[None].float()
