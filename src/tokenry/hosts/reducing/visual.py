"""Which columns of a call are visual: placeholders of pictures, or the span of a text that the user marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.vision import brings_pictures, visual_kinds
from tokenry.tokens import InputError

Marked: TypeAlias = slice | Tensor | Callable[[Tensor], Tensor]
"""How a user says which columns of a text may go: a slice, a mask [b t], or a function from `input_ids` to a mask."""


def visual_columns(
    call: DecoderCall, kwargs: dict[str, Any], marked: Marked | None
) -> dict[str, Bool[Tensor, "b t"]]:
    """The visual columns of a call by modality; "span" is what the user marked.

    Args:
        call: the call, its tokens known.
        kwargs: what the base model was given.
        marked: what the user says may go; None where placeholders tell.

    Raises:
        InputError: pictures without placeholders, embeddings alone, or marks that fit no prompt.
    """
    if not call.begins and not brings_pictures(kwargs):
        return {}  # a placeholder here is one that the model said itself
    if marked is not None:
        span = _span(call, marked) if call.begins else None
        return {} if span is None or not bool(span.any()) else {"span": span}
    if call.tokens is None:
        if call.begins:
            raise InputError(
                "Pass `input_ids`: from `inputs_embeds` alone, as prompt tuning makes them too, it is not known "
                "which tokens are visual."
            )
        return {}
    kinds = visual_kinds(call.host, call.tokens, kwargs)
    if not kinds and brings_pictures(kwargs):
        raise InputError(
            f"Pictures come with this call, but none of its {call.shape[1]} tokens is a placeholder "
            f"({', '.join(f'{k} = {v}' for k, v in call.host.token_ids.items())}), so where they belong is unknown."
        )
    return kinds  # a prompt of text alone runs in full


def _span(call: DecoderCall, marked: Marked) -> Bool[Tensor, "b t"]:
    ids = call.tokens
    if isinstance(marked, slice):
        mask = torch.zeros(call.shape, dtype=torch.bool, device=None if ids is None else ids.device)
        mask[:, marked] = True
    else:
        given: Any = marked(ids) if callable(marked) else marked  # type: ignore[arg-type]
        if not isinstance(given, Tensor) or given.shape != call.shape:
            raise InputError(
                f"`tokens` marks {getattr(given, 'shape', given)!r}; the prompt is {call.shape}."
            )
        mask = given.bool()
    if not callable(marked) and not bool(mask.any()):
        raise InputError("`tokens` marks no token of this prompt.")
    return mask
