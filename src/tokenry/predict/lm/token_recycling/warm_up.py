"""What a model expects after every single token of its vocabulary: a start for token recycling that is not cold."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from tokenry.hosts.host import evaluating
from tokenry.hosts.treepass import read_text, tree_pass
from tokenry.hosts.upstream import longest_text
from tokenry.hosts.wrappers import device_of, unwrap
from tokenry.predict.lm.requirements import try_drafts
from tokenry.tokens.errors import InputError
from tokenry.tokens.ids import IdsLike, id_rows


@torch.no_grad()
def usual_successors(
    model: nn.Module,
    start: IdsLike | None = None,
    *,
    k: int = 8,
    rows: int = 512,
) -> Int[np.ndarray, "v k"]:
    """The likeliest tokens behind every token, as `TokenRecycling.successors` has them.

    Every token is put behind the same short beginning, hundreds of them in a pass, none of which sees another. That
    costs as much as reading a text as long as the vocabulary: about a minute for SmolLM2 on one CPU core.

    Args:
        model: a causal language model, also one of peft or `torch.compile`.
        start: a beginning after which the tokens stand; by default a few words that the model itself begins with.
        k: how many, the likeliest first.
        rows: tokens in a pass, where the model has positions for so many.

    Raises:
        InputError: an empty beginning, several, or one that leaves no position for a token; no tokens in a pass; a
            model that writes no text.
        UnsupportedError: the model cannot judge tokens side by side; the message says what it lacks.
    """
    plain: PreTrainedModel = unwrap(model)
    try_drafts(plain)
    with evaluating(plain):
        return _successors(plain, _own_words(plain) if start is None else id_rows(start), k, rows)


def _successors(model: PreTrainedModel, start: Tensor, k: int, rows: int) -> Int[np.ndarray, "v k"]:
    config = model.config.get_text_config()
    held = start.shape[1]
    if not held or rows < 1 or not 1 <= k <= config.vocab_size:
        raise InputError(
            f"A beginning of {held} tokens, {rows} rows, {k} successors of {config.vocab_size} tokens: each must be at "
            "least 1."
        )
    if len(start) > 1:
        raise InputError(f"Every token is put behind one beginning, got {len(start)}.")
    longest = longest_text(config)
    if longest is not None:
        if held >= longest:
            raise InputError(
                f"Behind a beginning of {held} tokens no other has room; the model has {longest} positions."
            )
        rows = min(rows, longest - held)
    device = device_of(model)
    cache = read_text(model, start.to(device))
    found = np.empty((config.vocab_size, k), np.int32)
    for first in range(0, config.vocab_size, rows):
        ids = torch.arange(first, min(first + rows, config.vocab_size), device=device)
        n = len(ids)
        own = torch.eye(n, dtype=torch.bool, device=device)
        sees = torch.cat([own.new_ones(n, held), own], 1)
        positions = torch.full_like(ids, held)[None]
        logits = tree_pass(model, cache, {"input_ids": ids[None]}, sees[None], positions).logits[0]
        cache.crop(-n)
        found[first : first + n] = logits.topk(k, dim=-1).indices.to("cpu", torch.int32).numpy()
    return found


def _own_words(model: PreTrainedModel, tokens: int = 16) -> Int[Tensor, "1 s"]:
    """What the model writes from nothing but its start token."""
    config = model.config.get_text_config()
    first, longest = config.bos_token_id, longest_text(config)
    ids = torch.tensor([[0 if first is None else first]], device=device_of(model))
    if longest is not None:
        tokens = min(tokens, longest - 2)  # one position is the start token's, one for what comes behind
    if tokens < 1:
        return ids
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return cast(Tensor, found)
