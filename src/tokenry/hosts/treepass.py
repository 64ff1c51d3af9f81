"""One pass over a tree of rows behind a cached text, and what of it stays in the cache.

The rows of a pass stand side by side: each sees the cached text, or a part of it, and those rows that it follows. What
draft trees, prompt tokens, byte probabilities and the measuring of machines have in common lies here: what such a pass
asks of a model and of its cache, the pass itself, and the compaction of the cache afterwards.

Inside ``with tokenry.reduced(...)`` layers hold fewer tokens than the text has, and not all as many. Masks and position
ids are those of the full text there too: the session gives every layer the columns that it holds. What a pass added is
the end of each layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts.host import evaluating
from tokenry.hosts.masks import additive
from tokenry.hosts.reducing.hooks import paused
from tokenry.hosts.upstream import (
    Cache,
    DynamicCache,
    DynamicLayer,
    attention_kernel,
    is_encoder_decoder,
    is_recurrent,
    lacks_cache,
    parameters,
    require_release,
    shortest_window,
    takes_additive_masks,
    takes_anything,
    with_cache,
    without_windows,
)
from tokenry.hosts.wrappers import device_of
from tokenry.tokens.errors import InputError, UnsupportedError

__all__ = [
    "copied_columns",
    "keep_rows",
    "plain_cache",
    "plain_layers",
    "prepare",
    "read_text",
    "require_full_attention",
    "require_trees",
    "tree_pass",
    "try_tree",
]

# --- what it asks of a model ---------------------------------------------------------------------------------------


def require_trees(model: nn.Module) -> None:
    """Refuse a model that cannot read tokens side by side behind a cached text, by what it lacks for it.

    Raises:
        InputError: no model of transformers.
        UnsupportedError: an encoder-decoder; a model without position ids, masks for single tokens, or a cache that
            gives tokens back; a release of transformers that is too old.
    """
    require_release()
    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"Expected a transformers model, got {name}; load one with AutoModelForCausalLM.")
    if is_encoder_decoder(model.config):
        raise UnsupportedError(f"{name} has an encoder; trees of tokens need a decoder-only model.")
    _require_arguments(model, name)
    plain_cache(model)
    kernel = attention_kernel(model.config.get_text_config())
    if not takes_additive_masks(kernel):
        raise UnsupportedError(
            f"The attention implementation {kernel!r} takes no mask that says for every single token what it sees, "
            "which a tree of tokens needs; load the model with attn_implementation='sdpa' (or 'eager')."
        )


def _require_arguments(model: PreTrainedModel, name: str) -> None:
    known = parameters(model)
    if takes_anything(model) and "input_ids" not in known:
        return  # a wrapper, such as that of Duo-LLM: its `generate` is that of the model inside
    if is_recurrent(model) or lacks_cache(model):
        raise UnsupportedError(
            f"{name} keeps no cache of keys and values that tokens could be taken out of again: its layers cannot give "
            "tokens back. Trees of tokens need attention in every layer."
        )
    missing = next((each for each in ("attention_mask", "position_ids") if each not in known), None)
    if missing is not None:
        raise UnsupportedError(
            f"{name} takes no `{missing}`: it counts where tokens stand by itself, one behind the other, and those "
            "of a tree stand side by side. Draft trees and byte probabilities need another model."
        )


@torch.no_grad()
def try_tree(model: PreTrainedModel) -> None:
    """Let a model that has what trees ask for read two tokens side by side behind a third, as it will read them.

    Raises:
        UnsupportedError: it cannot, for a reason that its signature does not tell.
    """
    one = torch.ones(1, 1, dtype=torch.long, device=device_of(model))
    sees = torch.tensor([[[True, True, False], [True, False, True]]], device=one.device)
    with evaluating(model), paused(model):
        cache = read_text(model, one)
        two = one.expand(1, 2)
        try:
            tree_pass(model, cache, {"input_ids": two}, sees, positions=two)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise UnsupportedError(
                f"{type(model).__name__} cannot read tokens side by side, under a mask [b 1 q t] that says what each "
                f"of them sees ({type(error).__name__}: {error}). Decode it without drafts."
            ) from error


def require_full_attention(model: PreTrainedModel, tokens: int) -> None:
    """Refuse a text that outgrows a sliding window: a cache that forgets what lies behind it gives no token back.

    Args:
        model: the language model.
        tokens: how long the text may become.

    Raises:
        UnsupportedError: naming the window.
    """
    window = shortest_window(model.config.get_text_config())
    if window is not None and window < tokens:
        raise UnsupportedError(
            f"{type(model).__name__} has layers that look back over a sliding window of {window} tokens, and a cache "
            f"with windows cannot give tokens back; this text may grow to {tokens}. Keep to at most {window} tokens, "
            "prompt included, or do without trees of tokens."
        )


# --- what it asks of a cache ---------------------------------------------------------------------------------------


def plain_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model, from which tokens can be taken out again.

    Raises:
        UnsupportedError: a model with layers that keep something else than keys and values.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    prepare(cache)
    return cache


def prepare(cache: Cache) -> None:
    """Have every layer of a cache keep all of a text, before one is read into it (see `require_full_attention`).

    Raises:
        UnsupportedError: a cache that cannot give tokens back, as far as its layers exist by now.
    """
    without_windows(cache)
    if cache.layers:
        plain_layers(cache)


def plain_layers(cache: Cache | None) -> list[DynamicLayer]:
    """The layers of a cache that holds every token it was given and nothing else: tokens can be taken out again.

    Raises:
        UnsupportedError: sliding windows, fixed sizes, quantised or recurrent states.
    """
    layers = list(getattr(cache, "layers", ()))
    strange = next((layer for layer in layers if type(layer) is not DynamicLayer), None)
    offloaded = bool(getattr(cache, "offloading", False))
    if strange is not None or offloaded or not layers:
        kind = f"{'an offloaded' if offloaded else 'a'} {type(cache).__name__}"
        kind += "" if strange is None else f" with {type(strange).__name__}"
        raise UnsupportedError(
            f"Tokens that were read side by side must leave the cache again, and {kind} cannot give tokens back. Use a "
            "model with full attention in every layer, and the default DynamicCache."
        )
    return layers


def read_text(model: PreTrainedModel, ids: Int[Tensor, "b s"]) -> DynamicCache:
    """A cache that holds a text, for passes behind it.

    Raises:
        UnsupportedError: the model keeps something else of it than keys and values; with some the configuration does
            not tell.
    """
    cache = plain_cache(model)
    model(input_ids=ids, **with_cache(model, cache), use_cache=True)
    plain_layers(cache)
    return cache


# --- the pass, and what stays of it --------------------------------------------------------------------------------


def tree_pass(
    model: PreTrainedModel,
    cache: Cache | None,
    rows: Mapping[str, Tensor],
    sees: Bool[Tensor, "b q t"] | None,
    positions: Int[Tensor, "b q"],
    **options: Any,
) -> Any:
    """One forward pass over rows that stand side by side behind a cached text; the cache grows by all of them.

    Args:
        model: one that `require_trees` lets pass.
        cache: of the text.
        rows: `input_ids` [b, q], or `inputs_embeds` [b, q, d] where some rows are no tokens.
        sees: what each row attends to, of the text and of the rows; None for rows one behind the other.
        positions: the position of each row, as the model counts them; [axes, b, q] where it has several.
        options: of the model's forward.

    Returns:
        What the model returns.
    """
    mask = None if sees is None else additive(sees[:, None], model.dtype)
    return model(
        **rows,
        attention_mask=mask,
        position_ids=positions,
        **with_cache(model, cache),
        use_cache=True,
        **options,
    )


def keep_rows(cache: Cache | None, n: int, rows: Int[np.ndarray, "b k"]) -> None:
    """Of the last `n` tokens in every layer of a cache, keep some of each sequence, right behind the text.

    Args:
        cache: changed in place; nothing before those tokens is copied.
        n: how many there are, in every layer.
        rows: which of them to keep, in this order; the others are cut off.
    """
    k = rows.shape[1]
    straight = bool((rows == np.arange(k)).all())  # they already lie where they should
    index = torch.from_numpy(rows)[:, None, :, None]
    for layer in plain_layers(cache):
        held = layer.get_seq_length() - n
        for name in ("keys", "values"):
            whole = getattr(layer, name)
            if not straight:
                where = index.to(whole.device).expand(-1, whole.shape[1], -1, whole.shape[3])
                whole[:, :, held : held + k] = whole[:, :, held:].gather(2, where)
            setattr(layer, name, whole[:, :, : held + k])


def copied_columns(
    model: PreTrainedModel, cache: Cache, batch: Sequence[int], columns: Int[np.ndarray, "b k"]
) -> DynamicCache:
    """Another cache, with some of the columns of some of a cache's sequences; the cache itself stays as it is.

    Args:
        model: whose keys and values it holds.
        cache: of any number of sequences.
        batch: which of them to copy.
        columns: which columns of each, in this order.
    """
    kept, at = plain_cache(model), torch.from_numpy(columns)
    of = torch.tensor(batch)[:, None]
    for number, layer in enumerate(plain_layers(cache)):
        # [sequences, heads, columns, width] -> pick columns sequence by sequence
        keys, values = (
            x[of.to(x.device), :, at.to(x.device)].transpose(1, 2) for x in (layer.keys, layer.values)
        )
        kept.update(keys, values, number)
    return kept
