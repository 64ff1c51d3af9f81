"""A decoder that goes on with fewer tokens from one of its layers on, with gradients: what training on less needs.

`tokenry.reduced` runs methods on a finished model, with its cache and its batches of ragged prompts. Here a caller says
itself which tokens stay, as many of each row, and there is no cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tokenry.hosts.reducing.layout import crop_mask, take, take_each


@contextmanager
def shortened(layers: nn.ModuleList, at: int, index: Int[Tensor, "b m"]) -> Iterator[None]:
    """Inside, hidden states, masks and positions hold the tokens of `index` from layer `at` on.

    Args:
        layers: the decoder's layers. They are given hidden states first, and the rest by name: 4-D masks, tensors with
            a value for each token, and pairs of such tensors (rotary embeddings).
        at: the first layer that runs on fewer tokens.
        index: which tokens stay, in their order.
    """
    known: dict[str, Any] = {}  # every layer is handed the same arguments

    def shorten(
        _layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if not known:
            args = (take(args[0], index), *args[1:])
            known.update(_taken(named, index))
        return args, named | known

    with ExitStack() as stack:
        for layer in layers[at:]:
            handle = layer.register_forward_pre_hook(shorten, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _taken(named: dict[str, Any], index: Int[Tensor, "b m"]) -> dict[str, Any]:
    """The arguments of a layer that say something of each token, for those that stay."""
    real = torch.ones_like(index, dtype=torch.bool)
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    found: dict[str, Any] = {
        name: crop_mask(value, index, index, real) for name, value in tensors.items() if value.ndim == 4
    }
    for name, value in tensors.items():
        if value.ndim in (2, 3):
            found |= take_each({name: value}, tuple(value.shape[:2]), index)
    for name, value in named.items():
        if isinstance(value, tuple) and value and all(isinstance(part, Tensor) for part in value):
            found[name] = tuple(take(part, index) for part in value)
    return found
