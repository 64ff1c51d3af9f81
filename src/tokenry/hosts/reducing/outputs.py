"""What a shortened decoder returns, laid out over the full sequence: callers count on shapes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.reducing.hooks import ThreadState
from tokenry.hosts.reducing.report import LastPrompts
from tokenry.hosts.reducing.turns import Turns
from tokenry.hosts.upstream import Cache, cache_of, keys_seen, unknown_release
from tokenry.hosts.vision import VisionRecorder
from tokenry.tokens import UnsupportedError


def last_hidden(
    call: DecoderCall, hidden: Float[Tensor, "b m d"], tail: int | None
) -> Float[Tensor, "b t d"] | None:
    """The last hidden states at their columns of the call, zero where dropped; None if they can stay as they are.

    Args:
        call: the call.
        hidden: over the last segment.
        tail: how many of the last columns are all that the caller looks at; None: all.
    """
    last, width = call.segments[-1], call.shape[1]
    looked_at = tail or width
    expected = torch.arange(width - looked_at, width, device=hidden.device)
    # Where the model looks at the last few positions only, and they were kept, the rest need not be laid out.
    if last.columns.shape[1] >= looked_at and bool((last.columns[:, -looked_at:] == expected).all()):
        return None
    return layout.spread(hidden, last.columns, width)


def kept(call: DecoderCall) -> Bool[Tensor, "b t"]:
    """Which columns of the call reached the last layer."""
    return layout.marked(call.segments[-1].columns, call.shape[1])


def between_layers(call: DecoderCall, output: Any) -> Any:
    """The decoder's output with hidden states and attentions of its layers, if it has any, over the full sequence.

    Each layer's own columns count: hidden states of a column that was dropped before a layer are zero from that layer
    on, and so are rows and columns of its attentions. Attentions of a call that goes on reach back over all columns
    that were seen.
    """
    if isinstance(output, tuple):
        return tuple(_layers(call, part) for part in output)
    for name, part in list(output.items()):
        if isinstance(part, tuple):
            output[name] = _layers(call, part)
    return output


def _layers(call: DecoderCall, part: Any) -> Any:
    """One part of an output: hidden states (the way in, then what each layer made) and attentions are tuples."""
    if not isinstance(part, tuple):
        return part
    depth = len(call.host.layers)
    segments = [call.segments[0], *map(call.segment_at, range(depth))]
    layers = [i for i in range(depth) if call.host.takes_mask(i)]
    if any(p is not None and p.ndim == 4 for p in part):
        return tuple(p if p is None else _attention(call, i, p) for i, p in zip(layers, part, strict=False))
    return tuple(
        p if p is None else layout.spread(p, segment.columns, call.shape[1])
        for p, segment in zip(part, segments, strict=False)
    )


def _attention(
    call: DecoderCall, layer: int, attention: Float[Tensor, "b h q k"]
) -> Float[Tensor, "b h t s"]:
    segment = call.segment_at(layer)
    keys = call.columns_of_keys(layer)  # as they were before the layer ran
    real = (segment.columns >= 0)[:, None, :, None]  # padding looks at everything, which nobody wants to see
    rows = layout.spread(attention * real, segment.columns, call.shape[1], dim=2)
    return layout.spread(rows, keys, call.ledger.seen, dim=3)


class DecoderExit:
    """What a session does after the decoder has run: outputs of full length, and the books closed on the call."""

    def __init__(
        self, state: ThreadState, turns: Turns, prompts: LastPrompts, vision: VisionRecorder
    ) -> None:
        """Nothing is done yet.

        Args:
            state: what one part of a call leaves for the next.
            turns: calls of `generate`, which remember what became of their prompt.
            prompts: the last prompts, which callers ask about.
            vision: what the encoders delivered for the prompt, forgotten once that has run.
        """
        self._state, self._turns, self._prompts, self._vision = state, turns, prompts, vision

    def after_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Give the model an output of the length it expects: dropped tokens read zero, and their labels are ignored."""
        call = self._state.call
        if call is None or not call.segments:
            return None
        hidden, cache = output[0], cache_of(output)
        _require_own(call, cache)
        call.ledger.keep_in(cache)
        call.ledger.finish()
        call.heard.clear()
        if call.begins or call.items is not None:  # a prompt, or pictures of a later turn
            self._note(call)
        overheard = bool(module._forward_hooks)  # somebody else reads the decoder's output
        output = between_layers(call, output)
        full = last_hidden(call, hidden, None if overheard else self._state.tail or None)
        labels = self._state.labels
        if labels is not None:
            labels[:, 1:].masked_fill_(~kept(call)[:, :-1].to(labels.device), -100)
        if full is None:
            return output
        if isinstance(output, tuple):
            return (full, *output[1:])
        output.last_hidden_state = full
        return output

    def _note(self, call: DecoderCall) -> None:
        """Remember a prompt, without what was for the call alone."""
        if not call.again:
            self._prompts.note(call)
            self._turns.keep(call)
        call.outer = {}
        # Gradient checkpointing may run layers again, and add these again.
        if not torch.is_grad_enabled():
            call.deepstack = {}
        self._vision.pictures.clear()


def _require_own(call: DecoderCall, cache: Cache | None) -> None:
    """Notice that a call had a cache which was not found among its arguments: it was no new prompt then.

    Args:
        call: the call.
        cache: the one that came out of it.

    Raises:
        UnsupportedError: it holds more than this call put there.
    """
    if call.cache is None and cache is not None and keys_seen(cache, 0) > call.segments[0].columns.shape[1]:
        raise UnsupportedError(
            unknown_release(
                f"handed {call.host.name} a cache of {keys_seen(cache, 0)} tokens in a way that is not recognised"
            )
        )
