"""Arithmetic on groups of different sizes that lie one after the other, without a loop over groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def flatten(groups: Sequence[Sequence[int]]) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]]:
    """The group of each entry, and the entry."""
    lengths = torch.tensor([len(group) for group in groups], dtype=torch.long)
    values = torch.tensor([value for group in groups for value in group], dtype=torch.long)
    return torch.repeat_interleave(torch.arange(len(groups)), lengths), values


def group_sum(
    values: Float[Tensor, " entries"], group: Int[Tensor, " entries"], n: int
) -> Float[Tensor, " groups"]:
    """Sum of each group; 0 for an empty one."""
    return values.new_zeros(n).index_add_(0, group, values)


def group_softmax(
    values: Float[Tensor, " entries"], group: Int[Tensor, " entries"], n: int
) -> Float[Tensor, " entries"]:
    """Softmax within each group."""
    highest = values.new_full((n,), -torch.inf).scatter_reduce_(0, group, values, "amax")
    shifted = (values - highest[group]).exp()
    return shifted / group_sum(shifted, group, n)[group]


def group_mean(group: Int[Tensor, " entries"], n: int) -> Float[Tensor, " entries"]:
    """Equal weights within each group, summing to 1."""
    return 1 / torch.bincount(group, minlength=n)[group].float()
