"""The initialisations that every other is compared with: random, zero, normal, mean of pieces, first and last piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.text.transplant.base import Context, Mixing, Mixture, Mixtures, Rows, Transplant, normal_rows
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.transplant.ragged import flatten, group_mean


@dataclass(frozen=True, kw_only=True)
class _Drawn(Transplant):
    """Rows that are drawn without looking at the tokens."""

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """The rows of n tokens, from the old rows."""
        raise NotImplementedError

    def make(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Rows:
        """Draw the input's rows, then the head's; a bias is the mean bias."""
        generator = torch.Generator().manual_seed(context.seed)
        n = len(plan.unique)
        made = self.draw(input_rows, n, generator)
        head = None if output_rows is None else self.draw(output_rows, n, generator)
        bias = None if context.bias is None else context.bias.float().mean().expand(n)
        return Rows(made, head, bias)


@dataclass(frozen=True, kw_only=True)
class RandomRows(_Drawn):
    """Independent normal numbers with the mean and deviation of all numbers of the matrix: knows nothing of a token."""

    slug: ClassVar[str] = "random"

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """N(mean, std) of the whole matrix."""
        return normal_rows(rows, n, generator)


@dataclass(frozen=True, kw_only=True)
class ZeroRows(_Drawn):
    """Zero rows: as input a token without content, as head a logit of 0."""

    slug: ClassVar[str] = "zero"

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """Zeros."""
        return rows.new_zeros(n, rows.shape[1])


@dataclass(frozen=True, kw_only=True)
class NormalRows(_Drawn):
    """The multivariate normal distribution of the old rows (Hewitt 2021, "Initializing New Word Embeddings").

    Rows are drawn close to the mean row with the rows' covariance, so that a new token's logit is that of an average
    token: adding tokens this way hardly moves the distribution over the old ones. https://nlp.stanford.edu/~johnhew/vocab-expansion.html
    scales the covariance down by 1e-5, as do we.

    Attributes:
        scale: factor on the covariance; 1 draws rows as long as the old ones.
    """

    slug: ClassVar[str] = "normal"

    scale: float = 1e-5

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """Mean plus noise that a root of the covariance shapes."""
        mean = rows.mean(0)
        covariance = (rows - mean).T @ (rows - mean) / len(rows)
        values, directions = torch.linalg.eigh(covariance.double())
        root = (directions * values.clamp_min(0).sqrt()).to(rows.dtype)
        noise = torch.randn(n, rows.shape[1], generator=generator).to(rows.device)
        return mean + self.scale**0.5 * noise @ root.T


@dataclass(frozen=True, kw_only=True)
class ReTok(Mixing):
    """The mean of the old pieces' rows: ReTok's initialisation, also known as FVT.

    *ReTok: Replacing Tokenizer to Enhance Representation Efficiency in Large Language Model*, arXiv 2410.04335. A new
    token is cut into the old vocabulary's pieces, and its row is their plain mean, in the input and in the head. The
    paper then trains embeddings and head with the body frozen, and everything after that; that part is
    `tokenry.text.transplant.training.continue_training`, for rows of any method. No code is published.
    """

    slug: ClassVar[str] = "retok"

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture:
        """Equal weights of the pieces."""
        row, ids = flatten(plan.pieces)
        return Mixture.of(row, ids, group_mean(row, len(plan.unique)), len(plan.unique))


@dataclass(frozen=True, kw_only=True)
class FirstLast(Mixing):
    """One piece: the last for the input, the first for the head.

    What comes after a token has read its last piece; what comes before it has to predict its first. (For a tied head
    there is one matrix, and the last piece serves both.)
    """

    slug: ClassVar[str] = "first-last"

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixtures:
        """Weight 1 on one piece."""
        n = len(plan.unique)
        found = []
        for which in (-1, 0):
            row, ids = flatten([pieces[which:][:1] for pieces in plan.pieces])
            found.append(Mixture.of(row, ids, torch.ones(len(ids)), n))
        return Mixtures(*found)
