"""A pass over three tokens that shows whether a model reads trees of tokens, where its signature does not tell."""

from __future__ import annotations

from typing import Any

import torch

from tokenry.hosts.host import evaluating
from tokenry.hosts.reducing import layout
from tokenry.hosts.reducing.hooks import paused
from tokenry.hosts.upstream import plain_layers, with_cache
from tokenry.hosts.wrappers import device_of
from tokenry.predict.lm.requirements import plain_cache, require_drafts
from tokenry.tokens.errors import UnsupportedError


@torch.no_grad()
def try_drafts(model: Any) -> None:
    """Let a model that has what draft trees ask for read two tokens side by side behind a third, as it will read them.

    Raises:
        InputError, UnsupportedError: as `require_drafts`.
        UnsupportedError: it cannot, for a reason that its signature does not tell.
    """
    require_drafts(model)
    cache, device = plain_cache(model), device_of(model)
    one = torch.ones(1, 1, dtype=torch.long, device=device)
    sees = torch.tensor([[True, True, False], [True, False, True]], device=device)
    with evaluating(model), paused(model):
        model(input_ids=one, **with_cache(model, cache), use_cache=True)
        plain_layers(cache)  # some models fill it with what their configuration does not tell
        try:
            model(
                input_ids=one.expand(1, 2),
                attention_mask=layout.additive(sees[None, None], model.dtype),
                position_ids=one.expand(1, 2),
                **with_cache(model, cache),
                use_cache=True,
            )
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise UnsupportedError(
                f"{type(model).__name__} cannot read tokens side by side, under a mask [b 1 q t] that says what each "
                f"of them sees ({type(error).__name__}: {error}). Decode it without drafts."
            ) from error
