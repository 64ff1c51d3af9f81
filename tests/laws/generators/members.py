"""The token generators that the laws hold to: small ones of every kind, each with codes to learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tokenry.predict import AutoregressiveConfig, AutoregressiveGenerator, TokenGenerator
from tokenry.tokens.codes import Codes, Grid


@dataclass(frozen=True)
class Member:
    """A generator for tests.

    Attributes:
        build: makes one with random weights for codes, the same at every call.
        codes: of two pictures, one for each row of `condition`.
        condition: what they show.
    """

    build: Callable[[Codes], TokenGenerator]
    codes: Callable[[], Codes]
    condition: Tensor


def codes(sizes: tuple[int, ...], tokens: int, grid: Grid | None, scales: tuple[Grid, ...] | None) -> Codes:
    """Codes of two pictures without any order."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randint(size, (2, tokens), generator=generator) for size in sizes], 2)
    places = None if grid is None else torch.tensor(grid).expand(2, 3)
    return Codes(ids, torch.tensor([tokens, tokens]), sizes, places, scales, "made-up")


def _autoregressive(made: Codes) -> TokenGenerator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.2,
        )
        return AutoregressiveGenerator(AutoregressiveConfig.of(made, classes=3, **small)).eval()


_CLASSES = torch.tensor([0, 2])

MEMBERS: dict[str, Member] = {
    "autoregressive": Member(_autoregressive, lambda: codes((7, 5), 6, (1, 2, 3), None), _CLASSES),
    "autoregressive-scales": Member(
        _autoregressive, lambda: codes((9,), 5, None, ((1, 1, 1), (1, 2, 2))), _CLASSES
    ),
}
