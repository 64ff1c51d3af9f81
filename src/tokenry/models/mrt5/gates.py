"""Gates that mark tokens for deletion inside an encoder, and what deleting them means (MrT5, arXiv 2410.20771)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from tokenry.tokens.errors import InputError

__all__ = ["MASKED", "DeleteGate", "FixedGate", "Gate", "RandomGate", "keep", "softmax1"]

MASKED = -1e9
"""What is added to the scores of keys that are not there."""

_SEPARATORS = tuple(
    byte + 3 for byte in b" \t\n\r!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
)  # in ByT5's vocabulary: three special ids, then the bytes


def softmax1(scores: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """Softmax with one further logit of 0, whose weight goes nowhere: attention that can vanish.

    An ordinary softmax does not change if the same is added to all scores, so marking *all* keys for deletion would do
    nothing to it.
    """
    top = scores.amax(-1, keepdim=True).clamp(min=0).detach()
    weights = (scores - top).exp()
    return weights / (weights.sum(-1, keepdim=True) + (-top).exp())


def keep(
    gates: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"], threshold: float
) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"]]:
    """The tokens whose gate is above the threshold, moved to the left.

    A row of which nothing would be left keeps the token with the highest gate.

    Args:
        gates: in [k, 0]; lower is more deleted.
        mask: False at padding, which is never kept.
        threshold: what a kept token's gate must exceed.

    Returns:
        Indices of kept tokens in order, and which of them are real: rows with fewer kept tokens than the row with most
        are filled up.
    """
    kept = (gates > threshold) & mask
    best = gates.masked_fill(~mask, -torch.inf).argmax(1, keepdim=True)
    kept = kept | (~kept.any(1, keepdim=True) & torch.zeros_like(kept).scatter(1, best, True))
    count = kept.sum(1)
    index = (~kept).int().argsort(dim=1, stable=True)[:, : int(count.max())]
    return index, torch.arange(index.shape[1], device=index.device) < count[:, None]


class Gate(nn.Module):
    """Something that gives each token a gate in [k, 0].

    Args:
        scale: k, the gate of a token that is certainly deleted.
    """

    def __init__(self, scale: float = -30.0) -> None:
        super().__init__()
        if scale >= 0:
            raise InputError(f"The gate scale k must be negative, got {scale}.")
        self.scale = scale

    def forward(
        self, states: Float[Tensor, "b n d"], input_ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n"]:
        """The gates; k at padding."""
        raise NotImplementedError


class DeleteGate(Gate):
    """The learnt gate ``k * sigmoid(-(w RMSNorm(h) + b))``; b starts at 1, so nearly everything is kept at first.

    Args:
        width: of the states.
        scale: k.
        eps: of the norm.
        noise: add Gumbel noise to the logits in training.
    """

    def __init__(self, width: int, scale: float = -30.0, eps: float = 1e-6, noise: bool = False) -> None:
        super().__init__(scale)
        self.norm = nn.RMSNorm(width, eps)
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.empty(1))
        self.noise = noise
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, a bias of 1; tensors that were loaded stay as they are."""
        init.xavier_uniform_(self.weight)
        init.ones_(self.bias)

    def forward(
        self, states: Float[Tensor, "b n d"], input_ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n"]:
        """The gates, in float32: bfloat16 has steps of 0.06 near the threshold of -15."""
        logits = nn.functional.linear(self.norm(states), self.weight, self.bias)[..., 0].float()
        if self.noise and self.training:
            uniform = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
            logits = logits - (-uniform.log()).log()
        return self.gates(logits).masked_fill(~mask, self.scale)

    def gates(self, logits: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """From logits (high: keep) to gates."""
        return self.scale * (-logits).sigmoid()


class RandomGate(Gate):
    """Deletes tokens at random: the share is drawn from N(rate, 0.05) for each sequence. A baseline.

    Args:
        rate: mean share deleted.
        scale: k.
    """

    def __init__(self, rate: float, scale: float = -30.0) -> None:
        super().__init__(scale)
        self.rate = _checked(rate)

    def forward(
        self, states: Float[Tensor, "b n d"], input_ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n"]:
        """Gates of 0 and k, drawn from torch's generator."""
        share = (self.rate + 0.05 * torch.randn(len(mask), device=mask.device)).clamp(0, 1)
        deleted = (share * mask.sum(1)).round()
        rank = torch.rand(mask.shape, device=mask.device).masked_fill(~mask, 2.0).argsort(1).argsort(1)
        return ((rank < deleted[:, None]) | ~mask) * self.scale


class FixedGate(Gate):
    """Keeps the first ``ceil((1 - rate) * length)`` bytes of every word, and the separators. A baseline.

    Args:
        rate: share of each word that is deleted.
        scale: k.
        separators: ids between words; white space and punctuation of ByT5 by default.
    """

    separators: Tensor

    def __init__(self, rate: float, scale: float = -30.0, separators: Sequence[int] = _SEPARATORS) -> None:
        super().__init__(scale)
        self.rate = _checked(rate)
        self.register_buffer("separators", torch.tensor(separators), persistent=False)

    def forward(
        self, states: Float[Tensor, "b n d"], input_ids: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n"]:
        """Gates of 0 and k."""
        separator = torch.isin(input_ids, self.separators) | ~mask
        word = separator.cumsum(1)  # every separator begins a word of which it is the zeroth byte
        place = torch.arange(mask.shape[1], device=mask.device)
        starts = torch.where(separator, place, -1).cummax(1).values
        inside = (~separator).long()
        length = torch.zeros_like(place).expand(mask.shape[0], -1).new_zeros(mask.shape[0], mask.shape[1] + 1)
        length = length.scatter_add(1, word, inside).gather(1, word)
        kept = torch.ceil((1 - self.rate) * length - 1e-6)
        deleted = ~separator & (place - starts > kept)
        return (deleted | ~mask) * self.scale


def _checked(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise InputError(f"A deletion rate is a share between 0 and 1, got {rate}.")
    return rate
