"""Arguments and outputs of a call, found by the signature at hand: transformers renames them in minor releases."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from types import MethodType
from typing import Any, Final, TypeVar

from torch import nn
from transformers.cache_utils import (
    Cache,
)
from transformers.masking_utils import (
    create_causal_mask,
)

from tokenry.hosts.upstream.releases import unknown_release
from tokenry.tokens import UnsupportedError

_CACHE: Final = ("cache", "past_key_values")
"""What the argument that takes a cache is called, newest name first (5.24 renamed it)."""

_ANYTHING: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters(callee: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward, or of a function, by name; `self` is not among them.

    A forward that was replaced by one that takes whatever it is given hands it on to what the module's class wrote.
    """
    if not isinstance(callee, nn.Module):
        return _signature(callee)
    known = _signature(callee.forward)
    if "forward" not in vars(callee) or not _names_nothing(known):
        return known
    written = _signature(MethodType(type(callee).forward, callee))
    return known if _names_nothing(written) else written  # a wrapper's class names nothing either


def _names_nothing(known: Mapping[str, inspect.Parameter]) -> bool:
    return all(p.kind in _ANYTHING for p in known.values())


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    # Whatever stands around a method, its own signature counts, which is looked up once.
    function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__func__") or hasattr(f, "__signature__"))
    plain = getattr(function, "__func__", None)
    if plain is None:
        return inspect.signature(function).parameters
    bound = dict(_plain_signature(plain))
    bound.pop(next(iter(bound), ""), None)
    return bound


@functools.lru_cache(maxsize=1024)
def _plain_signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def takes_anything(callee: Any) -> bool:
    """Whether a module hands on keyword arguments that it does not name."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters(callee).values())


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call to a module by name."""
    if not args:
        return kwargs
    return dict(zip(parameters(module), args, strict=False)) | kwargs


def require_arguments(module: nn.Module, names: Iterable[str]) -> None:
    """Refuse a module whose forward does not take what will be handed to it.

    Args:
        module: a module of transformers.
        names: arguments; "cache" stands for whatever the release calls a cache.

    Raises:
        UnsupportedError: naming the argument, the class and the release.
    """
    known = parameters(module)
    for name in names:
        if name == _CACHE[0]:
            cache_argument(module)
        elif name not in known and not takes_anything(module):
            raise UnsupportedError(_lacks(module, f"`{name}`"))


def _lacks(callee: Any, what: str) -> str:
    name = (
        type(callee).__name__
        if isinstance(callee, nn.Module)
        else getattr(callee, "__qualname__", str(callee))
    )
    return unknown_release(f"gives {name} no argument {what} (it has {', '.join(parameters(callee))})")


def cache_argument(callee: Any) -> str:
    """What a module's forward, or a function, calls the argument that takes a cache.

    Raises:
        UnsupportedError: it has no argument of a known name.
    """
    known = parameters(callee)
    name = next((name for name in _CACHE if name in known), None)
    if name is not None:
        return name
    # A wrapper: what it wraps is of this release.
    if takes_anything(callee) and callee is not create_causal_mask:
        return cache_argument(create_causal_mask)
    raise UnsupportedError(_lacks(callee, "for a cache that tokenry knows"))


def lacks_cache(module: nn.Module) -> bool:
    """Whether a model that names what it takes does not name a cache of keys and values."""
    known = parameters(module)
    return "input_ids" in known and not any(name in known for name in _CACHE)


def with_cache(callee: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a cache to a module or function: ``model(ids, **with_cache(model, cache))``."""
    return {cache_argument(callee): cache}


def cache_given(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under whatever name it comes; None if there is none.

    Hooks see arguments before transformers translates old names, so the caller's spelling counts, not the module's.
    """
    named = next((arguments[name] for name in _CACHE if arguments.get(name) is not None), None)
    return named if named is not None else next((v for v in arguments.values() if isinstance(v, Cache)), None)


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call without its cache."""
    return {k: v for k, v in arguments.items() if k not in _CACHE and not isinstance(v, Cache)}


def cache_of(output: Any) -> Any:
    """The cache in a model's output, under whatever name; None if there is none."""
    parts = output.values() if isinstance(output, Mapping) else output
    return next((part for part in parts if isinstance(part, Cache)), None)


def cache_field(kind: type, cache: Any) -> dict[str, Any]:
    """The field of an output class that holds a cache: ``CausalLMOutputWithPast(logits=..., **cache_field(...))``.

    Raises:
        UnsupportedError: the class has no field of a known name.
    """
    known = {field.name for field in fields(kind)}
    name = next((name for name in _CACHE if name in known), None)
    if name is None:
        raise UnsupportedError(
            unknown_release(f"gives {kind.__name__} no field for a cache that tokenry knows")
        )
    return {name: cache}


_F = TypeVar("_F", bound=Callable[..., Any])


def takes_cache(forward: _F) -> _F:
    """Decorator of a forward with an argument `cache`, which transformers may hand in under another name."""

    @functools.wraps(forward)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        for name in _CACHE[1:]:
            if name in kwargs:
                kwargs[_CACHE[0]] = kwargs.pop(name)
        return forward(*args, **kwargs)

    return renamed  # type: ignore[return-value]


def whole_sequences(decoder: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments without leave to drop tokens in the decoder: some (Gemma4) go on with the last position only
    from the layers on that keep no keys of their own."""
    taken = {"logits_to_keep": 0} if "logits_to_keep" in parameters(decoder) else {}
    return dict(arguments) | taken
