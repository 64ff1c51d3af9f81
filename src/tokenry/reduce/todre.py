"""ToDRE: keep a diverse subset, then let all visual tokens go once text and picture have stopped talking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.reduce.base import Reducer, layer_at
from tokenry.reduce.shared.diverse import Rule, greedy_diverse, index_mask
from tokenry.reduce.shared.lots import uniform
from tokenry.tokens import (
    HALF,
    BudgetLike,
    ColumnKind,
    Depth,
    Needs,
    Positions,
    ReadAttention,
    Reduction,
    Stage,
    TokenryError,
    TokenView,
    prefix_mask,
)

_RULES: dict[str, Rule] = {"maxsum": "sum", "kcenter": "max"}


@dataclass(frozen=True, kw_only=True)
class ToDRE(Reducer):
    """Stage 1 keeps a diverse subset; stage 2 drops every visual token deep in the model, if attention has faded.

    *ToDRE: Visual Token Pruning via Diversity and Task Awareness for Efficient Large Vision-Language Models*, arXiv
    2505.18757. Stage 1 acts before the first layer: from a pivot, the token that [CLS] looks at most, it adds tokens by
    their cosine similarity to those chosen. Stage 2 looks at one layer l at 7/8 of depth: the mean attention mass that
    the text after the picture puts on the visual tokens, and the mean mass in the other direction. If both are below
    `tau`, the sequence runs on without visual tokens after layer l; else they stay to the end. Cost: k steps of O(N D),
    one [CLS] row, and one attention pass with indicator values.

    `rule`: the second version of the paper adds the token with the smallest *sum* of similarities ("maxsum"), the first
    one's abstract describes k-center ("kcenter"); they choose different sets. No code is published. Under a causal
    mask text after the picture receives nothing from it, so the second mass is 0 and the first decides. Text before
    the picture is not counted; a sequence without text after it keeps its tokens. In a video the pivot is the best of
    all frames, in a picture cut into tiles that of the thumbnail. The paper renumbers after stage 1
    and not again after stage 2; ``positions="compact"``, and so ``"paper"``, renumbers at both.

    A decoder whose layer after l does not exist (fewer than 13 layers at 7/8) has no stage 2. A budget of 100 % is the
    identity: stage 2 is off. For stage 2 alone give a count that no picture exceeds.

    Attributes:
        budget: tokens kept per picture by stage 1 (paper: 25 % or 10 %).
        rule: "maxsum" or "kcenter".
        pivot: "cls", or "random" for encoders without [CLS] (nearly equal in the paper's ablation).
        layer: encoder block whose [CLS] row gives the pivot; the last.
        check: the decoder layer whose attention decides stage 2, as a share of depth or a number; None: no stage 2.
        tau: stage 2 drops when both masses are below this; 0: never.
        seed: for ``pivot="random"``.
    """

    slug: ClassVar[str] = "todre"
    stage: ClassVar[Stage] = Stage.LAYER
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = 0.25
    rule: str = "maxsum"
    pivot: str = "cls"
    layer: int = -1
    check: int | float | None = 0.875
    tau: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule not in _RULES or self.pivot not in ("cls", "random"):
            raise TokenryError(
                f"todre: rule is 'maxsum' or 'kcenter' and pivot 'cls' or 'random', got {self.rule!r}, {self.pivot!r}."
            )

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        """The way in, and after the layer that is checked."""
        if self.check is None or self.tau <= 0 or self.limit.share == 1:
            return (0,)
        share = isinstance(self.check, float)
        checked = int(self.check * depth.decoder + HALF) if share else layer_at(self.check, depth.decoder)
        return (0, checked + 1) if checked + 1 < depth.decoder else (0,)

    def needs(self, layer: int, depth: Depth) -> Needs:
        """A [CLS] row for the pivot; the attention of the checked layer."""
        if layer > 0:
            return Needs(attention=ReadAttention.PREVIOUS)
        return Needs(cls_layers=(layer_at(self.layer, depth.encoder),)) if self.pivot == "cls" else Needs()

    def keep(self, view: TokenView) -> Int[Tensor, " items"]:
        """Stage 1: the budget. Stage 2: all or nothing, per sequence."""
        if view.layer == 0:
            return super().keep(view)
        return view.length.masked_fill(self.faded(view)[view.row], 0)

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Stage 1: greedy selection from the pivot, in raster order. Stage 2: what `keep` decided."""
        n = view.features.shape[1]
        if view.layer > 0 or bool((keep == view.length).all()):
            return Reduction.from_mask(prefix_mask(keep, n), view.length)
        picks = greedy_diverse(
            view.features, view.length, keep, rule=_RULES[self.rule], first=self.start(view)
        )
        return Reduction.from_mask(index_mask(picks, n), view.length)

    def start(self, view: TokenView) -> Int[Tensor, " items"]:
        """The pivot of each item."""
        if self.pivot == "random":
            score = uniform(view, self.seed)
        else:
            score = view.cls_attention(layer_at(self.layer, view.depth.encoder)).mean(1)
        thumbnail = (view.tile == 0) & view.valid
        # Frames are equals; and a thumbnail may have been dropped by a method before this one.
        anywhere = (view.grid[:, 0] > 1) | ~thumbnail.any(1)
        eligible = torch.where(anywhere[:, None], view.valid, thumbnail)
        return score.masked_fill(~eligible, -torch.inf).argmax(1)

    def faded(self, view: TokenView) -> Bool[Tensor, " rows"]:
        """Whether text and picture exchange less than `tau` of their attention, per sequence."""
        visual, text = view.columns == ColumnKind.VISUAL, view.columns == ColumnKind.AFTER
        to_picture = _mean_over(view.attention.mass(visual).mean(1), text)
        to_text = _mean_over(view.attention.mass(text).mean(1), visual)
        return (to_picture < self.tau) & (to_text < self.tau) & text.any(1)


def _mean_over(values: Float[Tensor, "rows t"], queries: Bool[Tensor, "rows t"]) -> Float[Tensor, " rows"]:
    """The mean over some of a row's queries (none: 0)."""
    return torch.where(queries, values, 0).sum(1) / queries.sum(1).clamp(min=1)
