"""Every upstream symbol of transformers that tokenry leans on, in one place (5.20 <= transformers < 6).

`hosts/` is the only room that knows transformers, and this file is where a rename upstream gets mended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from tokenry.tokens import UnsupportedError

__all__ = [
    "Cache",
    "StaticCache",
    "evaluating",
    "is_flash",
    "key_columns",
    "keys_seen",
    "plain_layers",
    "shortest_window",
    "watch_attention",
    "without_windows",
]

Listener = Callable[[Tensor, Tensor, Tensor | None, float], None]
"""Called with a layer's query [b h q d] and key [b kv t d] after RoPE, its mask and its logit scale."""

_PREFIX = "tokenry_"
_LISTENERS: WeakKeyDictionary[nn.Module, Listener] = WeakKeyDictionary()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def is_flash(config: Any) -> bool:
    """Whether attention runs on a kernel that takes a 2-D padding mask instead of a 4-D one."""
    return "flash" in _base_name(config)


def _base_name(config: Any) -> str:
    name = str(config._attn_implementation or "eager")
    return name.removeprefix(_PREFIX).replace("f1ash", "flash")


@contextmanager
def watch_attention(configs: list[Any], listeners: dict[nn.Module, Listener]) -> Iterator[None]:
    """While open, the attention modules in `listeners` report their queries and keys; attention itself is unchanged.

    The kernel in use stays in use: the model is pointed at a function that reports and then calls that kernel. The
    mask function is registered under the same name, without which transformers would drop padding masks silently, and
    the name must not contain "flash", which switches other code paths.
    """
    if not listeners:
        yield
        return
    before = [(config, config._attn_implementation_internal) for config in configs]
    try:
        _LISTENERS.update(listeners)
        for config in configs:
            config._attn_implementation_internal = _watched(_base_name(config))
        yield
    finally:
        for config, name in before:
            config._attn_implementation_internal = name
        for module in listeners:
            _LISTENERS.pop(module, None)


def _watched(base: str) -> str:
    """The name of the reporting variant of an attention implementation, registered on first use."""
    name = _PREFIX + base.replace("flash", "f1ash")
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attention(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
        ) -> Any:
            listener = _LISTENERS.get(module)
            if listener is not None:
                scale = kwargs.get("scaling")
                listener(query, key, mask, query.shape[-1] ** -0.5 if scale is None else scale)
            return _attention_function(base, module)(module, query, key, value, mask, **kwargs)

        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _attention_function(base: str, module: nn.Module) -> Callable[..., Any]:
    if base != "eager":
        return ALL_ATTENTION_FUNCTIONS[base]
    # Eager attention is no registered function: each modelling file has its own.
    return sys.modules[type(module).__module__].eager_attention_forward


def keys_seen(cache: Cache | None, layer: int) -> int:
    """Tokens that a cache layer has been given so far."""
    return 0 if cache is None else int(cache.get_seq_length(layer))


def plain_layers(cache: Cache | None) -> list[DynamicLayer]:
    """The layers of a cache that holds every token it was given and nothing else: tokens can be taken out again.

    Raises:
        UnsupportedError: sliding windows, fixed sizes, quantised or recurrent states.
    """
    layers = list(getattr(cache, "layers", ()))
    strange = next((layer for layer in layers if type(layer) is not DynamicLayer), None)
    offloaded = bool(getattr(cache, "offloading", False))
    if strange is not None or offloaded or not layers:
        kind = ("offloaded " if offloaded else "") + type(cache).__name__
        kind += "" if strange is None else f" with {type(strange).__name__}"
        raise UnsupportedError(
            f"Guesses that are not accepted must leave the cache again, and a {kind} cannot give tokens back. Use a "
            "model with full attention in every layer, and the default DynamicCache."
        )
    return layers


def shortest_window(config: Any) -> int | None:
    """How far back the most short-sighted layers of a decoder look, or None if all look back all the way."""
    types = getattr(config, "layer_types", None)
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    windows = {"sliding": sliding, "chunked": getattr(config, "attention_chunk_size", None)}
    used = (w for kind, w in windows.items() if w and (not types or any(kind in layer for layer in types)))
    return min(used, default=None)


def without_windows(cache: Cache) -> None:
    """Let layers of a cache that would forget what lies behind their window keep all: texts end before it matters."""
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            plain = DynamicLayer()
            if layer.is_initialized:
                plain.update(layer.keys, layer.values)
            cache.layers[i] = plain


def key_columns(cache: Cache | None, layer: int, queries: int, columns: Tensor) -> Tensor:
    """Of all columns a layer was given, those its attention will see: a sliding-window cache forgets the oldest."""
    if cache is None:
        return columns[:, -queries:] if queries else columns
    length, offset = cache.get_mask_sizes(queries, layer)
    seen = columns[:, offset : offset + length]
    missing = int(length) - seen.shape[1]
    # A static cache hands out its whole buffer: columns that nothing was written to yet.
    return torch.nn.functional.pad(seen, (0, missing), value=-1) if missing > 0 else seen
