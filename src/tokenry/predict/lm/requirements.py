"""What trees of tokens ask of a model, looked up in its configuration and signatures."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tokenry.hosts.upstream import (
    DynamicCache,
    attention_kernel,
    is_encoder_decoder,
    is_recurrent,
    lacks_cache,
    parameters,
    plain_layers,
    require_generation,
    require_release,
    takes_additive_masks,
    takes_anything,
    without_windows,
)
from tokenry.tokens.errors import InputError, UnsupportedError

__all__ = ["longest_text", "plain_cache", "require_drafts", "require_trees"]


def require_drafts(model: nn.Module) -> None:
    """Refuse a model that cannot judge the guesses of a draft tree in one pass, by what it lacks for it.

    Raises:
        InputError: no model that writes text.
        UnsupportedError: as `require_trees`; a release of transformers whose `generate` is not known.
    """
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"Expected a transformers model, got {type(model).__name__}.")
    if not model.can_generate():
        raise InputError(
            f"{type(model).__name__} writes no text. Load the model with its language-model head: "
            "AutoModelForCausalLM, or AutoModelForImageTextToText."
        )
    require_trees(model)
    require_generation(model)


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


def plain_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a model, from which tokens can be taken out again.

    Raises:
        UnsupportedError: a model with layers that keep something else than keys and values.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    without_windows(cache)
    if cache.layers:
        plain_layers(cache)
    return cache


def longest_text(config: Any) -> int | None:
    """How many positions a language model knows, or None where nothing says."""
    longest = getattr(config, "max_position_embeddings", None)
    return None if longest is None else int(longest)
