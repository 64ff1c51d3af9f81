"""The way into a model: the books on a call are opened before anything of it is embedded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.reducing.hooks import ThreadState
from tokenry.hosts.reducing.plan import require_kernel
from tokenry.hosts.reducing.turns import Turns
from tokenry.hosts.reducing.visual import Marked, visual_columns
from tokenry.hosts.upstream import StaticCache, cache_given, named_arguments
from tokenry.hosts.vision import brings_pictures
from tokenry.tokens import UnsupportedError


class ModelEntry:
    """What a session does before a model and its base run: labels set apart, visual columns found, the cache read."""

    def __init__(
        self,
        host: Host,
        state: ThreadState,
        turns: Turns,
        cuts: Collection[int],
        marked: Marked | None,
        follow: Callable[[], None],
    ) -> None:
        """Nothing is done yet.

        Args:
            host: the model.
            state: what one part of a call leaves for the next.
            turns: calls of `generate`, which know where prompts end.
            cuts: decoder layers before which methods act.
            marked: which columns of a text may go, where the user says so.
            follow: what to call before the model runs, see `watch_attention`.
        """
        self._host, self._state, self._turns = host, state, turns
        self._cuts, self._marked, self._follow = cuts, marked, follow

    def before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Labels of tokens that follow a dropped one will be ignored; the user's own tensor stays as it is."""
        tail = kwargs.get("logits_to_keep")
        self._state.tail = tail if isinstance(tail, int) else 0
        if kwargs.get("labels") is not None:
            self._state.labels = kwargs["labels"].clone()
            return args, kwargs | {"labels": self._state.labels}
        return None

    def before_base(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Open the books on this call: which of its tokens are visual, and what its cache holds."""
        kwargs = named_arguments(module, args, kwargs)
        ids = kwargs.get("input_ids")
        like = ids if ids is not None else kwargs.get("inputs_embeds")
        if like is None:
            return (), kwargs  # the model's own complaint about missing inputs is clear enough
        self._follow()
        require_kernel(self._host)  # the user may have set another since the session began
        call = self._opened(ids, like, kwargs)
        self._state.call = call
        call.ledger.in_call = True
        call.ledger.keep_in(call.cache)
        return (), kwargs if call.begins else self._of_full_length(call, kwargs)

    def _opened(self, ids: Tensor | None, like: Tensor, kwargs: dict[str, Any]) -> DecoderCall:
        """The books on a call.

        Raises:
            InputError, UnsupportedError: a cache, a mask or pictures that cannot be accounted for.
        """
        cache = cache_given(kwargs)
        if isinstance(cache, StaticCache) and any(layer > 0 for layer in self._cuts):
            raise UnsupportedError(
                "A StaticCache gives every layer the same length, so tokens cannot leave at a layer. Use the default "
                "DynamicCache, or a method that acts before the language model (stage input)."
            )
        call = DecoderCall(
            self._host,
            cache,
            kwargs.get("attention_mask"),
            (like.shape[0], like.shape[1]),
            cuts=self._cuts,
            prefix=like.device if brings_pictures(kwargs) else None,
        )
        call.tokens = ids
        self._turns.place(call)
        call.kinds = visual_columns(call, kwargs, self._marked)
        return call

    def _of_full_length(self, call: DecoderCall, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call that goes on, with positions and mask as if nothing had left the cache.

        Raises:
            InputError: positions that begin before the end of what was seen.
        """
        call.expect(kwargs.get("position_ids"))
        start = call.ledger.next
        if kwargs.get("position_ids") is None and start is not None:
            # The model would count from the shortened cache.
            counted = start[:, None] + torch.arange(call.shape[1], device=start.device)
            kwargs = kwargs | {"position_ids": counted}
        padded = kwargs.get("attention_mask") is not None and not call.drawn
        if self._host.base is not self._host.decoder and padded:
            held = call.ledger.columns[0] >= 0
            new = torch.ones(call.shape, dtype=torch.bool, device=held.device)
            kwargs = kwargs | {"attention_mask": torch.cat([held, new], 1).long()}
        return kwargs
