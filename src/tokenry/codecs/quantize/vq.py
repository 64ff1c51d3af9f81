"""Vector quantization with a learned codebook (VQ-VAE, arXiv 1711.00937)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from tokenry.codecs.quantize.base import Quantizer, masked_mean
from tokenry.tokens.errors import InputError

_EPS = 1e-5
_SCORES = 2**24
"""Distances computed at a time: large batches and codebooks must not fill the memory."""


class VectorQuantizer(Quantizer):
    """Vector quantizer: the nearest of K learned vectors, by Euclidean distance (VQ-VAE, arXiv 1711.00937).

    The codebook learns by gradients, ``mean((q - sg z)^2)``, or from moving averages of the vectors that its codes
    stood for (`decay`). Either way vectors are held to their codes by ``beta * mean((z - sg q)^2)``. Means run over all
    numbers of all real vectors.

    After each optimiser step a training loop may call `update` with the vectors of all processes, which counts what
    the codes stood for (and moves an averaged codebook), and now and then `restart`.

    Args:
        size: K, entries of the codebook, drawn from U(-1/K, 1/K).
        dim: width of the vectors.
        beta: weight of the commitment loss.
        decay: of the moving averages that the codebook is made of (0.99 is usual); None: it learns by gradients.
    """

    weight: Tensor
    count: Tensor
    total: Tensor | None

    def __init__(self, size: int, dim: int, *, beta: float = 0.25, decay: float | None = None) -> None:
        super().__init__()
        if size < 1 or dim < 1 or beta < 0 or not 0 <= (decay or 0) < 1:
            raise InputError(
                f"A codebook has at least 1 entry and 1 number, beta is 0 or more, decay in [0, 1); got size {size}, "
                f"dim {dim}, beta {beta}, decay {decay}."
            )
        self.dim, self.sizes, self.beta, self.decay = dim, (size,), beta, decay
        if decay is None:
            self.weight = nn.Parameter(torch.empty(size, dim))
        else:
            self.register_buffer("weight", torch.empty(size, dim))
        self.register_buffer("count", torch.empty(size))
        self.register_buffer("total", None if decay is None else torch.empty(size, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the codebook; tensors that were loaded stay as they are."""
        size = self.sizes[0]
        init.uniform_(self.weight, -1 / size, 1 / size)
        init.ones_(self.count)
        if self.total is not None:
            init.copy_(self.total, self.weight)

    def codebook(self) -> Float[Tensor, "k d"]:
        """The learned vectors, in float32."""
        return self.weight.float()

    @torch.no_grad()
    def nearest(self, u: Float[Tensor, "b n d"]) -> Int[Tensor, "b n 1"]:
        """The codes at the least Euclidean distance; equally near: the lowest."""
        codebook = self.codebook()
        # |u - e|^2 / 2 without |u|^2 / 2, which is the same for all codes and would only cost digits
        offset = codebook.square().sum(1) / 2
        parts = u.flatten(0, 1).split(max(1, _SCORES // len(codebook)))
        ids = torch.cat([(offset - part @ codebook.T).argmin(1) for part in parts])
        return ids.view(*u.shape[:2], 1)

    def decode(self, ids: Int[Tensor, "b n 1"]) -> Float[Tensor, "b n d"]:
        """The codes' vectors; 0 for padding (-1)."""
        return self.codebook()[ids[..., 0].clamp(min=0)].masked_fill(ids < 0, 0)

    def losses(
        self, u: Float[Tensor, "b n d"], codes: Float[Tensor, "b n d"], real: Bool[Tensor, "b n"]
    ) -> dict[str, Tensor]:
        """The commitment loss, and that of a codebook that learns by gradients."""
        losses = {"commitment": self.beta * masked_mean((u - codes.detach()).square(), real)}
        if self.decay is None:
            losses["codebook"] = masked_mean((codes - u.detach()).square(), real)
        return losses

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "m d"], decay: float = 0.99) -> None:
        """Count what the codes stand for, and move a codebook of moving averages.

        ``count <- decay * count + (1 - decay) * (vectors of the code)``, the same for their sum, and each code becomes
        the quotient of both, with counts smoothed by 1e-5 so that none is 0.

        Args:
            vectors: the quantizer's real inputs of a step, of all processes: padding left out.
            decay: of the counts of a codebook that learns by gradients; one of moving averages has its own.
        """
        vectors = vectors.float()
        rate = decay if self.decay is None else self.decay
        chosen = self.nearest(vectors[None])[0, :, 0]
        counts = torch.zeros_like(self.count).index_add_(0, chosen, vectors.new_ones(len(vectors)))
        self.count.lerp_(counts, 1 - rate)
        if self.total is not None:
            self.total.lerp_(torch.zeros_like(self.total).index_add_(0, chosen, vectors), 1 - rate)
            whole = self.count.sum()
            smooth = (self.count + _EPS) / (whole + len(self.count) * _EPS) * whole
            self.weight.copy_(self.total / smooth[:, None])

    def dead(self, threshold: float = 2.0) -> Bool[Tensor, " k"]:
        """Codes that stand for less than so many vectors of a step, by the counts that `update` keeps."""
        return self.count < threshold

    @torch.no_grad()
    def restart(
        self, vectors: Float[Tensor, "m d"], *, threshold: float = 2.0, generator: torch.Generator
    ) -> Int[Tensor, " r"]:
        """Put vectors in the place of dead codes, which then count as if they stood for `threshold` vectors.

        Which vectors is drawn by lot, each at most once where there are enough. The same vectors and generator on
        all processes make the same codebook on all of them. An optimiser's moments of these codes are not its affair.

        Args:
            vectors: the quantizer's real inputs of a step, of all processes.
            threshold: see `dead`.
            generator: draws, on the CPU.

        Returns:
            The codes that were replaced.

        Raises:
            InputError: there are dead codes and no vectors.
        """
        dead = self.dead(threshold).nonzero()[:, 0]
        if not len(dead):
            return dead
        if not len(vectors):
            raise InputError("Dead codes are replaced by the quantizer's inputs, and none was given.")
        rounds = -(-len(dead) // len(vectors))
        order = torch.cat([torch.randperm(len(vectors), generator=generator) for _ in range(rounds)])
        drawn = vectors[order[: len(dead)].to(vectors.device)]
        self.weight[dead] = drawn.to(self.weight.dtype)
        self.count[dead] = threshold
        if self.total is not None:
            self.total[dead] = threshold * drawn.to(self.total.dtype)
        return dead

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return f"{self.sizes[0]} x {self.dim}, beta={self.beta}, decay={self.decay}"
