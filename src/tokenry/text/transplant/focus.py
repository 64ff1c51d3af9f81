"""FOCUS: a new token's row as a sparse mixture of the overlapping tokens that stand in similar contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.text.string_vectors import CorpusVectors
from tokenry.text.transplant.base import Context, Mixing, Mixture, normal_rows
from tokenry.text.transplant.counting import token_lines, token_names
from tokenry.text.transplant.plan import TransplantPlan

_BLOCK = 1024  # new tokens compared with all overlapping ones at a time


@dataclass(frozen=True, kw_only=True)
class Focus(Mixing):
    """Sparsemax of the cosines to all overlapping tokens, in vectors learnt from text in the target's tokens.

    *FOCUS: Effective Embedding Initialization for Monolingual Specialization of Multilingual Models*, arXiv 2305.14481.
    A new token's row is a mixture of the source rows of overlapping (shared) tokens. Its weights are the sparsemax of
    the cosines, so most are exactly zero. Tokens without a vector are drawn from the normal distribution of each
    dimension of the old rows. Needs ``context.texts``.

    The authors train fastText on the tokenized text (100 wide, 3 epochs, minimal count 10); here the vectors are PPMI
    and a truncated SVD (`tokenry.text.string_vectors.CorpusVectors`), with hashed character n-grams for rare tokens, as
    fastText has them.

    Attributes:
        width: of the vectors.
        window: farthest neighbour that counts.
        min_count: rarer tokens have only their character n-grams.
    """

    slug: ClassVar[str] = "focus"

    width: int = 100
    window: int = 5
    min_count: int = 10

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture:
        """Sparse weights over shared tokens."""
        n = len(plan.unique)
        texts = context.need_texts("focus")
        if n == 0 or not len(plan.shared):
            return Mixture.empty(n)
        names = token_names(plan.target)
        fitted = CorpusVectors.fit(
            token_lines(plan.target, texts),
            names,
            width=self.width,
            window=self.window,
            min_count=self.min_count,
            seed=context.seed,
        )
        new = fitted([names[token] for token in plan.unique.tolist()])
        overlap = fitted([names[token] for token in plan.shared[:, 1].tolist()])
        usable = torch.nonzero(overlap.norm(dim=1) > 0).flatten()
        ids = torch.from_numpy(plan.shared[:, 0])[usable]
        rows, columns, weights = [], [], []
        asking = torch.nonzero(new.norm(dim=1) > 0).flatten()
        for block in asking.split(_BLOCK):
            row, column, weight = sparsemax_entries(new[block] @ overlap[usable].T)
            rows.append(block[row])
            columns.append(ids[column])
            weights.append(weight)
        if not rows:
            return Mixture.empty(n)
        return Mixture.of(torch.cat(rows), torch.cat(columns), torch.cat(weights), n)

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """N(mean, std) of each dimension."""
        return normal_rows(rows, n, generator, by_dimension=True)


def sparsemax(scores: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """The point of the simplex nearest to the scores (Martins and Astudillo, arXiv 1602.02068)."""
    ordered = scores.sort(dim=-1, descending=True).values
    return (scores - _threshold(ordered)).clamp_min(0)


def sparsemax_entries(
    scores: Float[Tensor, "rows n"], first: int = 128
) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"], Float[Tensor, " entries"]]:
    """The non-zero entries of sparsemax, without sorting whole rows.

    The threshold depends on the largest scores only: it is computed from the `first` largest, which is exact as soon as
    the smallest of them falls below it. Where it does not, twice as many are looked at.

    Returns:
        Row, column and weight of each entry.
    """
    rows, columns, weights = [], [], []
    left = torch.arange(len(scores), device=scores.device)
    k = min(first, scores.shape[1])
    while len(left):
        top, at = scores[left].topk(k, dim=1)
        share = (top - _threshold(top)).clamp_min(0)
        done = share[:, -1] == 0 if k < scores.shape[1] else torch.ones_like(left, dtype=torch.bool)
        found = done[:, None] & (share > 0)
        row, place = found.nonzero(as_tuple=True)
        rows.append(left[row])
        columns.append(at[row, place])
        weights.append(share[row, place])
        left = left[~done]
        k = min(2 * k, scores.shape[1])
    return torch.cat(rows), torch.cat(columns), torch.cat(weights)


def _threshold(ordered: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows 1"]:
    """What sparsemax subtracts, from scores in descending order."""
    sizes = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device, dtype=ordered.dtype)
    sums = ordered.cumsum(-1) - 1
    support = (ordered * sizes > sums).sum(-1, keepdim=True)
    return sums.gather(-1, support - 1) / support
