"""Recoverable Compression: keep what stands out, recover what the question asks for, merge the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.reduce.base import Reducer, layer_at
from tokenry.reduce.shared.diverse import cosines, unit_rows
from tokenry.reduce.shared.matching import merge_onto
from tokenry.reduce.shared.outliers import is_outlier
from tokenry.tokens import (
    BudgetLike,
    Depth,
    Needs,
    Positions,
    Reduction,
    TokenryError,
    TokenView,
    prefix_mask,
    top_mask,
)


@dataclass(frozen=True, kw_only=True)
class RecoverableCompression(Reducer):
    """Keep the outliers of [CLS] attention, recover the outliers of similarity to the text, merge the remainder.

    *Recoverable Compression: A Multimodal Vision Token Recovery Mechanism Guided by Text Information*, arXiv
    2409.01179. (1) Tokens whose [CLS] attention is an outlier (local outlier factor of the scores) and above the median
    are kept, at least `min_keep`. (2) Of the others, those whose similarity to the text is such an outlier are
    recovered. (3) The rest becomes `merge_tokens` means of clusters around density peaks. So the number of tokens
    follows the picture and the question, about a tenth on average. Acts before the language model's first layer. Cost:
    one [CLS] row, outlier factors O(N k), one N x N similarity matrix.

    `budget` as a range (the default) leaves the number to the method, within these bounds; as a count or share it is
    met exactly: clusters take up to half of a small budget, the two kept sets are cut in proportion, lowest scores
    first, if they are too large, and topped up by [CLS] attention if they are too small.

    No code was available to us when this was written; k, thresholds and clustering are choices. Where we know that
    this differs from the paper: it works on the *projected* embeddings (the paper: before the projector); the text is
    the mean embedding of all tokens after the picture, compared with those (the paper: CLIP's text tower on the bare
    question and its joint space, which most models do not carry), a substitute whose worth depends on the model;
    merged tokens sit where their cluster's centre was, in raster order (the paper: at the end). A score by cosine to
    [CLS] features is left out: views carry no [CLS] features. A picture cut into tiles is treated as one set.

    Attributes:
        budget: bounds on the tokens kept per picture, or an exact count or share.
        layer: encoder block whose [CLS] row is read; -2 delivers LLaVA's features.
        neighbours: k of the local outlier factor; it should exceed the size of a cluster of salient tokens.
        threshold: outlier factor from which a token stands out.
        min_keep: fewest tokens kept by step 1.
        merge_tokens: clusters.
        density_neighbours: k of the density that chooses the clusters' centres.
    """

    slug: ClassVar[str] = "recoverable-compression"
    paper_positions: ClassVar[Positions] = Positions.COMPACT

    budget: BudgetLike = "8..100%"
    layer: int = -2
    neighbours: int = 20
    threshold: float = 1.5
    min_keep: int = 8
    merge_tokens: int = 8
    density_neighbours: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"neighbours": 1, "min_keep": 1, "merge_tokens": 0, "density_neighbours": 1}
        if bad := [
            f"{name}={getattr(self, name)!r}" for name, low in least.items() if getattr(self, name) < low
        ]:
            raise TokenryError(
                f"recoverable-compression: {', '.join(bad)} is too small; the least is {least}."
            )

    def needs(self, layer: int, depth: Depth) -> Needs:
        """One [CLS] row, and the text."""
        return Needs(cls_layers=(layer_at(self.layer, depth.encoder),), text=True)

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        """Filter, recover, merge."""
        low = self.limit.minimum(view.length, view.row) if self.limit.adaptive else keep
        salient, score = self.salient(view)
        asked, relevance = self.recovered(view, salient)

        # How many of each: `alone` tokens stay themselves, `clusters` means are made of the rest.
        found = salient.sum(1) + asked.sum(1)
        free = (view.length - found).clamp(max=self.merge_tokens) + found
        total = free.clamp(min=low, max=keep)
        clusters = torch.where(total == free, free - found, (total // 2).clamp(max=self.merge_tokens))
        alone = total - clusters
        share = (salient.sum(1) * alone + found - 1) // found.clamp(min=1)  # rounded up
        n_salient = share.minimum(salient.sum(1))
        n_asked = (alone - n_salient).minimum(asked.sum(1))
        kept = top_mask(score, salient, n_salient) | top_mask(relevance, asked, n_asked)
        others = ~(salient | asked) & view.valid
        kept |= top_mask(score, others, alone - n_salient - n_asked)
        return _merge_rest(view, kept, clusters, self.density_neighbours)

    def salient(self, view: TokenView) -> tuple[Bool[Tensor, "items n"], Float[Tensor, "items n"]]:
        """Step 1: the tokens that [CLS] singles out, whatever the question; and the scores."""
        score = view.cls_attention(layer_at(self.layer, view.depth.encoder)).mean(1)
        outliers = is_outlier(score, view.valid, self.neighbours, self.threshold)
        top = top_mask(score, view.valid, view.length.clamp(max=self.min_keep))
        few = outliers.sum(1) < view.length.clamp(max=self.min_keep)
        return torch.where(few[:, None], top, outliers), score

    def recovered(
        self, view: TokenView, salient: Bool[Tensor, "items n"]
    ) -> tuple[Bool[Tensor, "items n"], Float[Tensor, "items n"]]:
        """Step 2: of the tokens not kept, those that resemble the text unusually well; and the similarities."""
        if view.text is None or view.text_length is None:
            raise TokenryError(
                "recoverable-compression compares with the text, which was not collected (Needs.text)."
            )
        words = prefix_mask(view.text_length, view.text.shape[1])[..., None]
        mean = torch.where(words, view.text.float(), 0).sum(1) / view.text_length.clamp(min=1)[:, None]
        similarity = cosines(unit_rows(view.features), unit_rows(mean[:, None]))[..., 0]
        rest = view.valid & ~salient
        asked = is_outlier(similarity, rest, self.neighbours, self.threshold)
        return asked & (view.text_length > 0)[:, None], similarity


def density_peaks(
    likeness: Float[Tensor, "b n n"], member: Bool[Tensor, "b n"], clusters: Int[Tensor, " b"], k: int
) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b n"]]:
    """Clusters around density peaks (DPC-kNN, Du et al. 2016), of the members of each row.

    Density is exp of minus the mean squared distance to the k nearest members; a centre is dense and far from anything
    denser. Distances are those of unit vectors, 2 - 2 cos, so that the scale of the features does not matter.

    Args:
        likeness: cosine similarities.
        member: the tokens to cluster.
        clusters: number of clusters per row, at most its members.
        k: neighbours of the density.

    Returns:
        The centres, and for every token the centre it is nearest to (meaningless where there is none).
    """
    n = member.shape[1]
    pair = member[:, :, None] & member[:, None, :]
    distance = (2 - 2 * likeness).clamp(min=0).masked_fill_(~pair, torch.inf)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distance.topk(min(k, n), dim=2, largest=False).values
    finite = nearest.isfinite()
    density = torch.exp(-torch.where(finite, nearest, 0).sum(2) / finite.sum(2).clamp(min=1))
    order = torch.argsort(density.masked_fill(~member, -torch.inf), dim=1, descending=True, stable=True)
    column = torch.arange(n, device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, column)
    denser = rank[:, None, :] < rank[:, :, None]
    peak = distance.masked_fill(~denser, torch.inf).amin(2)
    # Nothing is denser than the densest: it is as far as the farthest.
    farthest = torch.where(distance.isfinite(), distance, 0).amax((1, 2))
    peak = torch.where(peak.isfinite(), peak.sqrt(), farthest.sqrt()[:, None])
    centre = top_mask(density * peak, member, clusters)
    to_centre = distance.masked_fill_(~centre[:, None, :], torch.inf).argmin(2)
    return centre, torch.where(centre, column, to_centre)


def _merge_rest(
    view: TokenView, kept: Bool[Tensor, "items n"], clusters: Int[Tensor, " items"], k: int
) -> Reduction:
    """Kept tokens stay themselves, the others become means of clusters; all in raster order of their anchors."""
    rest = view.valid & ~kept
    if not bool((clusters > 0).any()):
        return Reduction.from_mask(kept, view.length)
    unit = unit_rows(view.features)
    centre, nearest = density_peaks(cosines(unit, unit), rest, clusters, k)
    column = torch.arange(kept.shape[1], device=kept.device)
    target = torch.where(kept, column, torch.where(rest & centre.any(1, keepdim=True), nearest, -1))
    return merge_onto(target, view.length)
