"""Numbers that stand out from their neighbours: the local outlier factor in one dimension."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.tokens import prefix_mask
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)


def is_outlier(
    scores: Float[Tensor, "b n"], member: Bool[Tensor, "b n"], k: int, threshold: float
) -> Bool[Tensor, "b n"]:
    """The members whose score is a local outlier, and above the members' median."""
    if member.shape[1] == 0:
        return member
    count = member.sum(1, keepdim=True)
    ordered = scores.double().masked_fill(~member, torch.inf).sort(1).values
    middle = torch.cat([(count - 1).clamp(min=0) // 2, (count // 2).minimum((count - 1).clamp(min=0))], 1)
    median = ordered.gather(1, middle).mean(1, keepdim=True)
    factor = local_outlier_factor(scores, member, k)
    return (factor > threshold) & (scores.double() > median) & member


def local_outlier_factor(
    scores: Float[Tensor, "b n"], member: Bool[Tensor, "b n"], k: int
) -> Float[Tensor, "b n"]:
    """Local outlier factor (Breunig et al. 2000) of numbers among the members of their row; 1 for the others.

    Computed in float64: attention scores differ by far less than they measure. On a line the k nearest neighbours are
    among the k before and the k after, so this is O(n k). Neighbours at equal distance: the smaller number.
    """
    b, n = scores.shape
    count = member.sum(1)
    span = min(k, n - 1)
    factor = torch.ones(b, n, dtype=torch.float64, device=scores.device)
    if span < 1:
        return factor
    value, order = scores.double().masked_fill(~member, torch.inf).sort(dim=1, stable=True)
    step = torch.cat([torch.arange(-span, 0), torch.arange(1, span + 1)]).to(scores.device)
    near = torch.arange(n, device=scores.device)[:, None] + step
    inside = (near >= 0) & (near < count[:, None, None])
    near = near.clamp(0, n - 1)
    distance = (value[:, near] - value[..., None]).abs().masked_fill(~inside, torch.inf)
    distance, pick = distance.sort(dim=2, stable=True)
    distance, near = distance[..., :span], near.expand(b, -1, -1).gather(2, pick)[..., :span].flatten(1)
    used = prefix_mask((count - 1).clamp(0, span), span)[:, None, :]
    number = used.sum(2).clamp(min=1)

    radius = torch.where(used, distance, 0).amax(2)
    reach = radius.gather(1, near).view_as(distance).maximum(distance)
    density = 1 / (torch.where(used, reach, 0).sum(2) / number + 1e-10)
    among = torch.where(used, density.gather(1, near).view_as(distance), 0).sum(2) / number
    lof = torch.where(prefix_mask(count, n) & (count[:, None] > 1), among / density, 1)
    return factor.scatter_(1, order, lof)
