"""What a shortened decoder returns, laid out over the full sequence: callers count on shapes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.call import Chunk


def last_hidden(
    chunk: Chunk, hidden: Float[Tensor, "b m d"], tail: int | None
) -> Float[Tensor, "b t d"] | None:
    """The last hidden states at their columns of the call, zero where dropped; None if they can stay as they are.

    Args:
        chunk: the call.
        hidden: over the last stage.
        tail: how many of the last columns are all that the caller looks at; None: all.
    """
    last, width = chunk.stages[-1], chunk.shape[1]
    looked_at = tail or width
    expected = torch.arange(width - looked_at, width, device=hidden.device)
    # Where the model looks at the last few positions only, and they were kept, the rest need not be laid out.
    if last.columns.shape[1] >= looked_at and bool((last.columns[:, -looked_at:] == expected).all()):
        return None
    return layout.spread(hidden, last.columns, width)


def kept(chunk: Chunk) -> Bool[Tensor, "b t"]:
    """Which columns of the call reached the last layer."""
    return layout.marked(chunk.stages[-1].columns, chunk.shape[1])


def between_layers(chunk: Chunk, output: Any) -> Any:
    """The decoder's output with hidden states and attentions of its layers, if it has any, over the full sequence.

    Each layer's own columns count: hidden states of a column that was dropped before a layer are zero from that layer
    on, and so are rows and columns of its attentions. Attentions of a call that goes on reach back over all columns
    that were seen.
    """
    if isinstance(output, tuple):
        return tuple(_layers(chunk, part) for part in output)
    for name, part in list(output.items()):
        if isinstance(part, tuple):
            output[name] = _layers(chunk, part)
    return output


def _layers(chunk: Chunk, part: Any) -> Any:
    """One part of an output: hidden states (the way in, then what each layer made) and attentions are tuples."""
    if not isinstance(part, tuple):
        return part
    depth = len(chunk.host.layers)
    stages = [chunk.stages[0], *map(chunk.stage_at, range(depth))]
    layers = [i for i in range(depth) if chunk.host.takes_mask(i)]
    if any(p is not None and p.ndim == 4 for p in part):
        return tuple(p if p is None else _attention(chunk, i, p) for i, p in zip(layers, part, strict=False))
    return tuple(
        p if p is None else layout.spread(p, stage.columns, chunk.shape[1])
        for p, stage in zip(part, stages, strict=False)
    )


def _attention(chunk: Chunk, layer: int, attention: Float[Tensor, "b h q k"]) -> Float[Tensor, "b h t s"]:
    stage = chunk.stage_at(layer)
    keys = chunk.columns_of_keys(stage, layer)  # as they were before the layer ran
    real = (stage.columns >= 0)[:, None, :, None]  # padding looks at everything, which nobody wants to see
    rows = layout.spread(attention * real, stage.columns, chunk.shape[1], dim=2)
    return layout.spread(rows, keys, chunk.memory.seen, dim=3)
