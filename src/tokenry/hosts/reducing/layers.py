"""The way into each decoder layer: the tokens, mask and positions of the layer's own segment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.apply import MethodRunner
from tokenry.hosts.reducing.call import ARGUMENT, DecoderCall
from tokenry.hosts.reducing.hooks import ThreadState
from tokenry.hosts.reducing.report import LastPrompts
from tokenry.hosts.upstream import named_arguments
from tokenry.hosts.wrappers import unwrap
from tokenry.tokens import UnsupportedError


class LayerEntry:
    """What a session does before each decoder layer: methods of stage layer act, and the layer sees what is left."""

    def __init__(self, host: Host, state: ThreadState, runner: MethodRunner, prompts: LastPrompts) -> None:
        """Nothing is done yet.

        Args:
            host: the model.
            state: what one part of a call leaves for the next.
            runner: runs the methods.
            prompts: the last prompts, whose layers gradient checkpointing may run again.
        """
        self._host, self._state, self._runner, self._prompts = host, state, runner, prompts

    def before_layer(self, i: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give layer i the tokens, mask and positions of its own segment; cut if a method acts here."""
        call: DecoderCall | None = kwargs.pop(ARGUMENT, None) or self._state.call or self._replayed()
        if call is None or not call.segments:
            return args, kwargs
        kwargs = named_arguments(unwrap(module), args, kwargs)
        hidden = kwargs["hidden_states"]
        if i in call.deepstack:
            hidden = self._add_deep(call, i, module, hidden)
        given = kwargs.get("position_embeddings")
        if i > 0 and (i in self._runner.plan or i in call.cuts):
            hidden = self._runner.cut(i, module, call, hidden, kwargs)
        segment = call.segment_at(i)
        held = call.ledger.columns[segment.first].shape[1]
        new = call.of_segment(segment, kwargs) | {"attention_mask": call.mask(i)}
        if given is not None:
            new["position_embeddings"] = call.rotary(segment, i, given, hidden)
        if "position_ids" in kwargs:  # flash kernels read gaps in these as borders between packed sequences
            first = held - segment.columns.shape[1]
            new["position_ids"] = torch.arange(first, held, device=hidden.device)[None]
        if args:
            del new["hidden_states"]
            return (hidden,), new
        return (), new | {"hidden_states": hidden}

    def _add_deep(self, call: DecoderCall, i: int, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The tokens that layer i is given, with the encoder's deep features, as the decoder would have added them.

        Raises:
            UnsupportedError: training with checkpoints around layers that know no gradients but those of their inputs.
        """
        deep, before = call.deepstack[i], call.segment_at(max(i - 1, 0))
        if layer.training and deep.requires_grad and not torch.is_grad_enabled():
            raise UnsupportedError(
                f"{self._host.name} adds deep visual features between its layers, and under reentrant gradient "
                'checkpointing they would learn nothing. Use gradient_checkpointing_enable({"use_reentrant": False}).'
            )
        return hidden + layout.take(deep, before.columns) * (before.columns >= 0)[..., None]

    def _replayed(self) -> DecoderCall | None:
        """The last prompt, where gradient checkpointing runs a layer again in a thread of autograd's own."""
        return self._prompts.latest if torch._C._current_graph_task_id() >= 0 else None
