"""The attention function of a model: which kernel it is, and listening to its queries and keys."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Final
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

Listener = Callable[[Tensor, Tensor, Tensor | None, float], bool]
"""Called with a layer's query [b h q d] and key [b kv t d] after RoPE, its mask and its logit scale.

True = that was all the layer was run for: its attention gives zeros then, and is not computed."""

_PREFIX = "tokenry_"

_LISTENERS: WeakKeyDictionary[nn.Module, tuple[ReferenceType[Listener], ...]] = WeakKeyDictionary()
"""Who listens to an attention module; whoever opened the watch keeps the listeners, which may know the module."""


@dataclass
class _Watch:
    """A configuration whose attention is watched: the implementation it asked for, and by how many it is watched."""

    config: Any
    asked: str | None
    watchers: int = 0


_WATCHES: dict[int, _Watch] = {}
"""By the identity of the configuration, which has no hash."""

_WATCHING: Final = RLock()


def attention_kernel(config: Any) -> str:
    """The attention implementation that a configuration asks for, also while its queries and keys are watched."""
    return kernel_asked_for(config) or "eager"


def kernel_asked_for(config: Any) -> str | None:
    """The attention implementation that a configuration names; None leaves the choice to the model that is made."""
    name = getattr(config, "_attn_implementation", None)
    return None if name is None else str(name).removeprefix(_PREFIX).replace("f1ash", "flash")


def is_flash(config: Any) -> bool:
    """Whether attention runs on a kernel that takes a 2-D padding mask instead of a 4-D one."""
    return "flash" in attention_kernel(config)


def takes_additive_masks(kernel: str) -> bool:
    """Whether an attention implementation adds a 4-D mask [b h q t] to its logits, whatever that mask says."""
    known = ALL_MASK_ATTENTION_FUNCTIONS
    return kernel in known.valid_keys() and known[kernel] in (known["eager"], known["sdpa"])


@contextmanager
def watch_attention(configs: list[Any], listeners: dict[nn.Module, Listener]) -> Iterator[Callable[[], None]]:
    """While open, the attention modules in `listeners` report their queries and keys; attention itself is unchanged.

    The kernel in use stays in use: the model is pointed at a function that reports and then calls that kernel. The
    mask function is registered under the same name, without which transformers would drop padding masks silently, and
    the name must not contain "flash", which switches other code paths. Watches may overlap and end in any order.

    Yields:
        What to call before the model runs: it follows the user to another attention implementation, set meanwhile
        with `set_attn_implementation`. That one also stays when the watch ends.
    """
    if not listeners:
        yield lambda: None
        return
    try:
        with _WATCHING:
            for module, listener in listeners.items():
                _LISTENERS[module] = (*_LISTENERS.get(module, ()), ref(listener))
            for config in configs:
                _WATCHES.setdefault(
                    id(config), _Watch(config, config._attn_implementation_internal)
                ).watchers += 1
            _follow(configs)
        yield partial(_follow, configs)
    finally:
        with _WATCHING:
            for config in configs:
                _leave(config)
            for module, listener in listeners.items():
                others = tuple(each for each in _LISTENERS.get(module, ()) if each() is not listener)
                if others:
                    _LISTENERS[module] = others
                else:
                    _LISTENERS.pop(module, None)


def _follow(configs: list[Any]) -> None:
    """Point configurations at the reporting variant of what they ask for."""
    for config in configs:
        name = config._attn_implementation_internal
        if not str(name).startswith(_PREFIX):
            with _WATCHING:
                _WATCHES[id(config)].asked = name
                config._attn_implementation_internal = _watched(attention_kernel(config))


def _leave(config: Any) -> None:
    watch = _WATCHES.get(id(config))
    if watch is None:
        return
    watch.watchers -= 1
    if watch.watchers == 0:
        del _WATCHES[id(config)]
        # Else the user chose another meanwhile.
        if str(config._attn_implementation_internal).startswith(_PREFIX):
            config._attn_implementation_internal = watch.asked


def forget_watches(module: nn.Module) -> None:
    """Let the configurations of a module, copied while they were watched, ask for plain attention again."""
    for part in module.modules():
        config = part.__dict__.get("config")
        if str(getattr(config, "_attn_implementation_internal", None)).startswith(_PREFIX):
            config._attn_implementation_internal = attention_kernel(config)  # type: ignore[union-attr]


def _watched(base: str) -> str:
    """The name of the reporting variant of an attention implementation, registered on first use."""
    name = _PREFIX + base.replace("flash", "f1ash")
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attention(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            scale = kwargs.get("scaling")
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            ended = False
            for listening in _LISTENERS.get(module, ()):
                if (listener := listening()) is not None:
                    ended |= listener(query, key, attention_mask, scale)
            if ended:
                rows, heads, width, _ = query.shape
                return value.new_zeros(rows, width, heads, value.shape[-1]), None
            return _attention_function(base, module)(module, query, key, value, attention_mask, **kwargs)

        # Layers may be compiled: what listeners note is no part of a graph.
        AttentionInterface.register(name, torch.compiler.disable(attention))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _attention_function(base: str, module: nn.Module) -> Callable[..., Any]:
    if base != "eager":
        return ALL_ATTENTION_FUNCTIONS[base]
    # Eager attention is no registered function: each modelling file has its own.
    return sys.modules[type(module).__module__].eager_attention_forward
