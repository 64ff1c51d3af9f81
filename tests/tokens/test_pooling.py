"""Pooling: padding counts for nothing, whatever it holds; a row of nothing is 0."""

from __future__ import annotations

import pytest
import torch

from tokenry.tokens.pooling import mean_pool, pool


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_the_mean_is_that_of_the_tokens_alone(shape: tuple[int, ...]) -> None:
    x = torch.randn(3, 5, *shape, generator=torch.Generator().manual_seed(0))
    x[0, 3:] = torch.nan
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    found = mean_pool(x, mask)
    torch.testing.assert_close(found[0], x[0, :3].mean(0))
    torch.testing.assert_close(found[1], (x[1, 1] + x[1, 4]) / 2)
    assert torch.equal(found[2], torch.zeros(shape))
    assert torch.equal(mean_pool(x, mask.bool()), found)


def test_the_first_token_or_the_mean() -> None:
    x, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    assert torch.equal(pool(x, mask, "cls"), x[:, 0])
    assert torch.equal(pool(x, mask, "mean"), mean_pool(x, mask))
