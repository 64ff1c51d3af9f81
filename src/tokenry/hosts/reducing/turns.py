"""One call of `generate`: where its prompt ends, and what was decided about it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from tokenry.hosts.patches import put
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.reducing.items import Items
from tokenry.hosts.reducing.ledger import columns_seen, ledger_of
from tokenry.hosts.upstream import cache_given, unknown_release
from tokenry.tokens import InputError, UnsupportedError


@dataclass
class Turn:
    """One call of `generate`.

    Attributes:
        end: the column of the full sequence at which its prompt ends; None if it was given no ids.
        first: the call of the decoder in which its prompt was reduced; None before that.
    """

    end: int | None
    first: DecoderCall | None = None


class Turns(threading.local):
    """The calls of `generate` that run in a session, the innermost last; every thread has its own.

    The decoder sees columns; only `generate` knows which of them are the prompt. Assisted generation hands drafts of
    the answer in with the prompt, generation without a cache hands the prompt in again with every token, and chunked
    prefill hands it in by pieces.
    """

    def __init__(self) -> None:
        """No call yet."""
        self._open: list[Turn] = []

    def watch(self, model: PreTrainedModel) -> Callable[[], None]:
        """Have a model's `generate` say where its prompts end.

        Returns:
            What ends that.
        """
        if not isinstance(model, GenerationMixin):
            return lambda: None
        given = model.generate

        @functools.wraps(given)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with self.turn(args, kwargs):
                return given(*args, **kwargs)

        return put(model, "generate", generate)

    @contextmanager
    def turn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """One call of `generate` with these arguments."""
        cache = cache_given(kwargs)
        ledger = None if cache is None else ledger_of(cache)
        self._open.append(Turn(_prompt_end(args, kwargs)))
        try:
            with ExitStack() as stack:
                # `generate` cuts what was seen off the ids it is given, by the cache's length.
                if ledger is not None:
                    stack.enter_context(ledger.counted_whole())
                yield
        finally:
            self._open.pop()

    def place(self, call: DecoderCall) -> None:
        """Tell a call of the decoder how much of it is no prompt, and what was decided about its prompt before.

        Raises:
            UnsupportedError: the prompt comes in pieces, or goes on with a cache that is not seen.
        """
        turn, ids = self._open[-1] if self._open else None, call.tokens
        if turn is None or turn.end is None or ids is None:
            return
        end = call.offset + call.shape[1]
        if end < turn.end:
            if turn.first is not None:  # it was read as a whole before: this is no piece of it
                raise UnsupportedError(
                    unknown_release("goes on after a prompt with a cache in a way that is not recognised")
                )
            raise UnsupportedError(
                f"The prompt of {turn.end} tokens comes in pieces, of which this one ends at {end}; which tokens stay "
                "is decided for a prompt as a whole. Leave `prefill_chunk_size` out: reduced prompts are short."
            )
        call.tail = min(end - turn.end, call.shape[1])
        if turn.first is not None and turn.first.prompt is not None and call.begins:
            call.again = torch.equal(ids[:, : turn.end], turn.first.prompt)
            call.decisions = turn.first.decisions if call.again else {}
        call.prompt = ids[:, : call.shape[1] - call.tail]

    def items(self, call: DecoderCall) -> Items | None:
        """The pictures of a prompt that is run again; None if it is not."""
        return self._open[-1].first.met if call.again and self._open[-1].first is not None else None

    def keep(self, call: DecoderCall) -> None:
        """Remember a prompt that was reduced."""
        if self._open and self._open[-1].first is None:
            self._open[-1].first = call


def _prompt_end(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Where a prompt given to `generate` ends in the full sequence.

    Behind a cache, the ids are those of the whole text, or, beside a longer mask of the whole text, the new ones.

    Raises:
        InputError: ids behind a cache that neither are longer than what it stands for, nor come with such a mask.
    """
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    if not isinstance(ids, Tensor):
        return None
    width, cache, mask = ids.shape[1], cache_given(kwargs), kwargs.get("attention_mask")
    if mask is not None and mask.shape[-1] > width:
        return int(mask.shape[-1])
    seen = 0 if cache is None else columns_seen(cache)
    if seen and width <= seen:
        raise InputError(
            f"The cache stands for {seen} tokens, and `generate` was given {width}. Pass the whole text, or the new "
            "tokens with an attention mask over the whole text."
        )
    return width
