"""Functions that stand on single modules for a while, before those of their class; copies of a module are without."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from torch import nn

from tokenry.hosts.upstream import forget_watches

_BEFORE: Final = "tokenry_before"
_NOTHING: Final = object()


def put(module: nn.Module, name: str, function: Callable[..., Any]) -> Callable[[], None]:
    """Let a function stand for a method of one instance; its class and every other instance stay as they are.

    A `copy.deepcopy` of the module, or of a model around it, gets what stood there before.

    Args:
        module: the instance.
        name: of the method.
        function: made for this call alone, since it is marked.

    Returns:
        What takes it away again. A function that somebody else put over it since stays.
    """
    attributes = module.__dict__  # not setattr: a compiled module hands that on to the one inside
    if "__deepcopy__" not in attributes:
        _place(attributes, "__deepcopy__", partial(_plain_copy, module))
    _place(attributes, name, function)

    def take_away() -> None:
        _lift(attributes, name, function)
        if [k for k, v in attributes.items() if hasattr(v, _BEFORE)] == ["__deepcopy__"]:
            _lift(attributes, "__deepcopy__", attributes["__deepcopy__"])

    return take_away


def _place(attributes: dict[str, Any], name: str, function: Any) -> None:
    setattr(function, _BEFORE, attributes.get(name, _NOTHING))
    attributes[name] = function


def _lift(attributes: dict[str, Any], name: str, function: Any) -> None:
    before = getattr(function, _BEFORE)
    upper = attributes.get(name)
    if upper is not function:  # others were put over it, and may end in any order
        while hasattr(upper, _BEFORE) and getattr(upper, _BEFORE) is not function:
            upper = getattr(upper, _BEFORE)
        if hasattr(upper, _BEFORE):
            setattr(upper, _BEFORE, before)
    elif before is _NOTHING:
        del attributes[name]
    else:
        attributes[name] = before


def _plain_copy(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of a module as it would be without what was put on it."""
    make, args, *rest = cast(tuple[Any, ...], module.__reduce_ex__(4))
    twin: Any = make(*(copy.deepcopy(arg, memo) for arg in args))
    memo[id(module)] = twin
    if rest:  # a compiled module is made anew around a copy of the one inside
        twin.__setstate__(copy.deepcopy(_plain(cast(dict[str, Any], rest[0])), memo))
    forget_watches(twin)
    return twin


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in attributes.items():
        while hasattr(value, _BEFORE):
            value = getattr(value, _BEFORE)
        if value is not _NOTHING:
            plain[name] = value
    return plain


def set_aside(module: nn.Module, name: str) -> Callable[[], None]:
    """Let an attribute of one instance be None for a while.

    Returns:
        What puts it back, unless somebody has set it anew.
    """
    attributes = module.__dict__
    value = attributes.get(name)
    if value is None:
        return lambda: None
    attributes[name] = None

    def put_back() -> None:
        if attributes.get(name) is None:
            attributes[name] = value

    return put_back
