"""The way into a decoder (cut 0): embeddings, positions and mask of the tokens that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.apply import MethodRunner
from tokenry.hosts.reducing.call import ARGUMENT, DecoderCall
from tokenry.hosts.reducing.hooks import ThreadState
from tokenry.hosts.reducing.items import Items
from tokenry.hosts.reducing.turns import Turns
from tokenry.hosts.upstream import (
    counts_by_mask,
    named_arguments,
    take_between_layers,
    takes_anything,
    whole_sequences,
)
from tokenry.hosts.vision import Encoded, VisionRecorder, embedded
from tokenry.tokens import Positions, UnsupportedError


class DecoderEntry:
    """What a session does before the decoder runs: methods of stage input act, and what they drop stays out."""

    def __init__(
        self,
        host: Host,
        state: ThreadState,
        turns: Turns,
        runner: MethodRunner,
        vision: VisionRecorder,
        *,
        encoded: Encoded | None,
        crops: Sequence[int] | None,
    ) -> None:
        """Nothing is done yet.

        Args:
            host: the model.
            state: what one part of a call leaves for the next.
            turns: calls of `generate`, which know of prompts that are run again.
            runner: runs the methods.
            vision: what the model's own encoders deliver.
            encoded: pictures encoded beforehand, which count instead.
            crops: how many tiles each picture has, where the user says so.
        """
        self._host, self._state, self._turns, self._runner = host, state, turns, runner
        self._vision, self._encoded, self._crops = vision, encoded, crops

    def before_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Shorten embeddings, positions and mask on the way into the language model.

        Raises:
            UnsupportedError: the decoder was called past the base model, or pictures that cannot be judged.
        """
        call = self._state.call
        if call is None or call.segments:
            raise UnsupportedError(
                f"The language model of {self._host.name} was called on its own (as some models' `generate` does), "
                "past the module that is given `input_ids`, so which of its tokens are visual is unknown. Call the "
                "whole model."
            )
        kwargs = whole_sequences(module, named_arguments(module, args, kwargs))
        hidden = embedded(self._host, kwargs)
        ids = self._full_ids(call, kwargs.get("position_ids"), hidden.device)
        mask = kwargs.get("attention_mask")
        call.outer = _drawn(mask)
        call.deepstack = take_between_layers(kwargs, hidden)
        hidden, keep, rule = self._choose(call, hidden)
        call.ledger.begin()
        segment = call.begin(ids, keep, rule)
        hidden = layout.take(hidden, segment.columns).masked_fill((segment.columns < 0)[..., None], 0)
        out = layout.take_each(kwargs, call.shape, segment.columns) | {
            "inputs_embeds": hidden,
            "input_ids": None,
            "position_ids": segment.ids[0] if len(segment.ids) == 1 else segment.ids,
            "attention_mask": self._mask(call, mask),
        }
        if takes_anything(module):
            out[ARGUMENT] = call
        return (), out

    def _choose(
        self, call: DecoderCall, hidden: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b t d"], Bool[Tensor, "b t"], Positions]:
        """Hidden states with merged tokens, the columns that stay, and what happens to their positions."""
        keep = torch.ones(call.shape, dtype=torch.bool, device=hidden.device)
        if not call.kinds:
            return hidden, keep, Positions.KEEP
        if not call.begins and self._runner.listened():
            raise UnsupportedError(
                "A picture that arrives in a later turn cannot be judged by decoder attention: the turns before "
                "are in the cache only. Use a method of stage input, or put all pictures into the first call."
            )
        known = self._turns.items(call)
        if known is None:
            delivered = self._vision if self._encoded is None else self._encoded
            known = Items.find(call.kinds, delivered.pictures, call.tokens, self._crops)
        call.meet(known)
        return self._runner.enter(call, hidden, keep)

    def _full_ids(self, call: DecoderCall, ids: Tensor | None, device: torch.device) -> Real[Tensor, "a b t"]:
        """Position ids per RoPE axis and sequence."""
        b, t = call.shape
        if ids is None and call.padding_mask is not None and counts_by_mask(self._host.decoder):
            ids = (call.padding_mask.cumsum(1) - 1).clamp(min=0)[:, call.offset :]
        if ids is None:
            ids = torch.arange(call.offset, call.offset + t, device=device)[None]
        if ids.ndim == 2:
            ids = ids[None].expand(self._host.rope_axes, -1, -1)
        # With four axes the first numbers the text for packed sequences; the masks of a segment say that already.
        return ids[-self._host.rope_axes :].expand(-1, b, -1)

    def _mask(self, call: DecoderCall, given: Any) -> Any:
        """A mask that keeps the decoder from making its own; each layer is handed its segment's mask later."""
        if isinstance(given, dict):
            return dict.fromkeys(given)
        mask = call.mask(0)
        # With no mask at all, gaps in position ids would read as borders of packed sequences.
        return torch.ones_like(call.ledger.columns[0]) if mask is None else mask


def _drawn(mask: Any) -> dict[str, Tensor]:
    """The 4-D masks that a decoder was given, by type of layer; "" = for all types."""
    if isinstance(mask, dict):
        return {name: m for name, m in mask.items() if isinstance(m, Tensor)}
    return {"": mask} if isinstance(mask, Tensor) and mask.ndim == 4 else {}
