"""Recorders of what methods rank tokens by: attention of the last query, and likeness of visual tokens to names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.bench.reproduce.vqa.informed import Informed
from tokenry.bench.reproduce.vqa.recorder import TokenRecorder
from tokenry.data.questions.examples import COVERED
from tokenry.reduce.base import WEIGHTS
from tokenry.reduce.shared.diverse import unit_rows
from tokenry.tokens import Budget, Depth, Needs, ReadAttention, Reduction, Stage, TokenView

SHARE: Final = 0.25
"""Share of the tokens among which what is asked for is looked for, and its recall by chance."""
NAMED: Final = "named"
_INSIDE: Final = 0.5  # a patch that shows more of something else is not expected to resemble the name


@dataclass(frozen=True, kw_only=True)
class AttentionRecall(TokenRecorder, Informed):
    """Share of the asked patches among the quarter of the tokens that the last query looks at most, layer by layer.

    Attributes:
        which: the attention of the layer before each cut ("previous"), or of the last layer ("next").
    """

    slug: ClassVar[str] = "attention-recall"
    stage: ClassVar[Stage] = Stage.LAYER

    which: ReadAttention = ReadAttention.PREVIOUS

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """Before every layer but the first; or before the last."""
        every = tuple(range(1, depth.decoder))
        return every if self.which is ReadAttention.PREVIOUS else every[-1:]

    def needs(self, layer: int, depth: Depth) -> Needs:
        """The attention of the layer just run, or of the one about to run."""
        return Needs(attention=self.which)

    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """Recall by the mean over heads, then by each head alone; NaN where no patch is asked for."""
        row, asked = view.attention.row(), self.cover(view) >= COVERED
        rankings = [row.mean(1), *row.unbind(1)]
        layer = view.layer - (self.which is ReadAttention.PREVIOUS)
        return {reading(layer): torch.stack([_recall(view, view.of_columns(r), asked) for r in rankings], 1)}


@dataclass(frozen=True, kw_only=True)
class Naming(TokenRecorder, Informed):
    """Share of a thing's patches whose visual token is nearer to the thing's name than to every other's, by cosine.

    Things are those of questions whose answer is the name of what lies in their only region.

    Attributes:
        vectors: embeddings of the first tokens that names begin with.
        names: what a thing may be called, and which of the vectors stand for it.
    """

    slug: ClassVar[str] = "naming"

    vectors: Float[Tensor, "v d"] = field(metadata={WEIGHTS: True}, compare=False, repr=False)
    names: tuple[tuple[str, tuple[int, ...]], ...]

    def read(self, view: TokenView) -> dict[str, Float[Tensor, "items ..."]]:
        """NaN where the question names nothing, or no patch shows mostly the thing."""
        known, inside = dict(self.names), self.cover(view) >= _INSIDE
        nearest = (
            unit_rows(view.features) @ unit_rows(self.vectors[None])[0].to(view.features.device).T
        ).argmax(2)
        found = torch.full((len(inside),), torch.nan)
        for i, row in enumerate(view.row.tolist()):  # pictures, not tokens
            example = self.round.examples[row]
            if len(example.regions) == 1 and example.answer in known and bool(inside[i].any()):
                right = torch.tensor(known[example.answer], device=nearest.device)
                found[i] = torch.isin(nearest[i][inside[i]], right).float().mean()
        return {NAMED: found}


def reading(layer: int) -> str:
    """What the recall by a layer's attention is called."""
    return f"attention of layer {layer}"


def _recall(
    view: TokenView, score: Float[Tensor, "items n"], asked: Bool[Tensor, "items n"]
) -> Float[Tensor, " items"]:
    keep = Budget.of(SHARE).resolve(view.length)
    kept = Reduction.top(score, keep, view.length).kept
    return (kept & asked).sum(1) / asked.sum(1)  # 0 / 0 is NaN
