"""What a quantizer is: vectors to the nearest codes of a codebook, with a gradient straight through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.tokens.errors import InputError
from tokenry.tokens.precision import without_autocast


@dataclass(frozen=True, eq=False)
class Quantized:
    """What a quantizer makes of a batch of vectors: always these four.

    Attributes:
        values: the codes' vectors, in the dtype of what came in; 0 on padding. Their gradient goes to what came in.
        ids: the codes, g for each vector; -1 on padding.
        losses: terms to be added to a training loss as they are: their weights are in them.
        stats: what to watch in training: `usage`, the share of a codebook that this batch uses, and `perplexity`, two
            to the power of the entropy of its codes; with several groups, the mean over them.
    """

    values: Float[Tensor, "b n d"]
    ids: Int[Tensor, "b n g"]
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Vectors to codes and back.

    A member says three things: where vectors lie among the codes (`project`), which codes are nearest to them
    (`nearest`), and the codes' vectors (`decode`); and its losses. Everything is computed in float32, under autocast
    and for vectors in half precision too, no lots are drawn, and nothing is changed by a forward pass: what a codebook
    learns from statistics instead of gradients, a training loop tells it afterwards.

    Attributes:
        dim: width of the vectors.
        sizes: entries of each group's codebook.
    """

    dim: int
    sizes: tuple[int, ...]

    def forward(self, z: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None) -> Quantized:
        """Quantize vectors for training.

        Args:
            z: the vectors.
            mask: which of them are real. Padding, which may hold NaN, touches neither losses, statistics nor
                gradients.

        Raises:
            InputError: vectors of another width.
        """
        self._require_width(z)
        real = torch.ones_like(z[..., 0], dtype=torch.bool) if mask is None else mask
        with without_autocast(z):
            u = self.project(z.masked_fill(~real[..., None], 0).float())
            ids = self.nearest(u.detach())
            codes = self.decode(ids)
            # u - u.detach() is exactly 0 where u is finite, so that values are the codes to the last bit
            values = (codes.detach() + (u - u.detach())).masked_fill(~real[..., None], 0)
            losses = self.losses(u, codes, real)
        ids = ids.masked_fill(~real[..., None], -1)
        return Quantized(values.to(z.dtype), ids, losses, self._stats(ids))

    @torch.no_grad()
    def encode(
        self, z: Float[Tensor, "b n d"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Int[Tensor, "b n g"]:
        """The codes nearest to vectors; -1 on padding.

        Raises:
            InputError: vectors of another width.
        """
        self._require_width(z)
        real = torch.ones_like(z[..., 0], dtype=torch.bool) if mask is None else mask
        with without_autocast(z):
            ids = self.nearest(self.project(z.masked_fill(~real[..., None], 0).float()))
        return ids.masked_fill(~real[..., None], -1)

    def project(self, z: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Where vectors lie among the codes: as they are, unless codes fill a bounded space."""
        return z

    @abstractmethod
    def nearest(self, u: Float[Tensor, "b n d"]) -> Int[Tensor, "b n g"]:
        """The codes nearest to projected vectors; equally near: the lowest."""

    @abstractmethod
    def decode(self, ids: Int[Tensor, "b n g"]) -> Float[Tensor, "b n d"]:
        """The codes' vectors, in float32; 0 for padding (-1)."""

    @abstractmethod
    def codebook(self) -> Float[Tensor, "k d"] | None:
        """Every code's vector in the order of ids; None where codes are several numbers, or too many to list."""

    def losses(
        self, u: Float[Tensor, "b n d"], codes: Float[Tensor, "b n d"], real: Bool[Tensor, "b n"]
    ) -> dict[str, Tensor]:
        """Weighted terms of a training loss, over real vectors; none by default.

        Args:
            u: projected vectors.
            codes: the vectors of their codes.
            real: which are not padding.
        """
        return {}

    @torch.no_grad()
    def _stats(self, ids: Int[Tensor, "b n g"]) -> dict[str, Tensor]:
        found = [code_stats(ids[..., g], size) for g, size in enumerate(self.sizes)]
        return {name: torch.stack([stats[name] for stats in found]).mean() for name in found[0]}

    def _require_width(self, z: Tensor) -> None:
        if z.shape[-1] != self.dim:
            raise InputError(
                f"This quantizer takes vectors of {self.dim} numbers, got shape {tuple(z.shape)}: project them to its "
                "width first."
            )


def code_stats(ids: Int[Tensor, "*b"], size: int) -> dict[str, Float[Tensor, ""]]:
    """The share of a codebook that is used, and the perplexity of the codes, 2^H; -1 counts for nothing.

    Counts 4, 2, 1, 1 have an entropy of 1.75 bits and a perplexity of 3.364.
    """
    _, counts = ids[ids >= 0].unique(
        return_counts=True
    )  # by sorting: some codebooks are larger than any memory
    share = counts / counts.sum().clamp(min=1)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"usage": torch.tensor(len(counts) / size, device=ids.device), "perplexity": entropy.exp()}


def masked_mean(x: Float[Tensor, "b n d"], real: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """The mean over all numbers of real vectors; 0 if there is none."""
    return x.masked_fill(~real[..., None], 0).sum() / (real.sum() * x.shape[-1]).clamp(min=1)
