"""Key-value caches: what their layers hold, and watching what is done to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


def keeps_keys(cache: Cache, layer: int) -> bool:
    """Whether a cache holds keys of its own for a layer that has run; layers that reuse another's keys have none."""
    layers = list(getattr(cache, "layers", ()))
    placeholder = getattr(cache_utils, "DummyLayer", ())
    return layer < len(layers) and not isinstance(layers[layer], placeholder)


def keys_seen(cache: Cache | None, layer: int) -> int:
    """Tokens that a cache layer has been given so far."""
    return 0 if cache is None else int(_plain_kind(cache).get_seq_length(cache, layer))


def keys_by_layer(cache: Cache) -> dict[int, int] | None:
    """Tokens that each layer of a cache holds, where it holds keys of its own; None if a layer keeps a state instead,
    which gives no token back."""
    if not all(hasattr(layer, "get_seq_length") for layer in cache.layers):
        return None
    return {i: keys_seen(cache, i) for i in range(len(cache.layers)) if keeps_keys(cache, i)}


@runtime_checkable
class CacheWatcher(Protocol):
    """What is told of, and may forbid, the things that happen to a cache (`watch_cache`)."""

    def may_grow(self, held: int) -> bool:
        """Called before something is written to a cache of `held` tokens; False ends the watch, an error forbids."""

    def length(self, layer: int, held: int) -> int:
        """The length that the cache reports of a layer, where it holds `held` tokens."""

    def rows(self, pick: Callable[[Tensor], Tensor]) -> None:
        """The cache's rows were moved; `pick` does the same to a tensor with a row for each."""


_WATCHER = "tokenry_watcher"
"""Attribute of a cache that holds its watcher: it is copied, and forgotten, together with the cache."""


def cache_watcher(cache: Cache) -> Any:
    """Who watches a cache; None if nobody does."""
    return getattr(cache, _WATCHER, None)


def watch_cache(cache: Cache, watcher: CacheWatcher) -> None:
    """Have a cache ask `watcher` before anything is written to it, and tell it when rows move.

    The cache stays what it is, of a subclass of its own kind. Copies are watched as well, by copies of the watcher;
    what is done to the layers one by one is not seen.
    """
    setattr(cache, _WATCHER, watcher)
    kind = _plain_kind(cache)
    if type(cache) is kind:
        cache.__class__ = _watched_kind(cast(Any, kind))


def _plain_kind(cache: Cache) -> type[Cache]:
    return getattr(type(cache), "tokenry_plain", type(cache))


@functools.cache
def _watched_kind(kind: Any) -> Any:
    """The subclass of a kind of cache whose instances are watched: one for each kind, made when first asked for."""

    def writing(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(kind, name))
        def write(self: Cache, *args: Any, **kwargs: Any) -> Any:
            watcher = cache_watcher(self)
            if watcher is not None and not watcher.may_grow(keys_seen(self, 0)):
                setattr(self, _WATCHER, None)
            return getattr(kind, name)(self, *args, **kwargs)

        return write

    def moving(name: str, pick: Callable[[Tensor, Any], Tensor]) -> Callable[..., Any]:
        @functools.wraps(getattr(kind, name))
        def move(self: Cache, *args: Any, **kwargs: Any) -> Any:
            done = getattr(kind, name)(self, *args, **kwargs)
            watcher, (by,) = cache_watcher(self), (*args, *kwargs.values())
            if watcher is not None:
                watcher.rows(lambda rows: pick(rows, by))
            return done

        return move

    def get_seq_length(self: Cache, layer_idx: int = 0) -> int:
        held, watcher = keys_seen(self, layer_idx), cache_watcher(self)
        return held if watcher is None else watcher.length(layer_idx, held)

    def reduce(self: Cache, protocol: Any) -> Any:
        return _new_watched, (kind,), self.__dict__

    body: dict[str, Any] = {name: writing(name) for name in dir(kind) if name.startswith("update")}
    body |= {name: moving(name, pick) for name, pick in _ROW_MOVES.items()}
    body |= {"get_seq_length": get_seq_length, "__reduce_ex__": reduce, "tokenry_plain": kind}
    body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), body)


def _new_watched(kind: Any) -> Cache:
    watched: Any = _watched_kind(kind)
    return watched.__new__(watched)


def _chosen(rows: Tensor, index: Tensor) -> Tensor:
    return rows[index.to(rows.device)]


_ROW_MOVES: Final[Mapping[str, Callable[[Tensor, Any], Tensor]]] = {
    "reorder_cache": _chosen,
    "batch_select_indices": _chosen,
    "batch_repeat_interleave": lambda rows, repeats: rows.repeat_interleave(repeats, 0),
}
"""What moves a cache's rows, and the same done to a tensor with a row for each."""


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
