"""JSON values read as the types that a dataclass declares: what is of another type is refused, not found out later."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Final, Union, get_args, get_origin, get_type_hints, is_typeddict

LARGEST: Final = 1e30
"""Numbers beyond it count nothing here, and sums of them overflow."""

_Reader = Callable[[Any], Any]


@cache
def reader(kind: Any) -> _Reader:
    """What reads a JSON value as a value of a type: a dataclass, a TypedDict, or made of JSON's own.

    Arrays become lists or tuples as the type says, objects dataclasses or dictionaries. A TypedDict may hold more than
    it declares. Numbers are finite, and a truth value is none.

    Returns:
        A function that raises ValueError at a value of another type.
    """
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if is_typeddict(kind):
        return _typed_dict_reader(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (only,) = (one for one in args if one is not types.NoneType)
        some = reader(only)
        return lambda value: None if value is None else some(value)
    if origin is tuple and args[-1] is not Ellipsis:
        each = [reader(one) for one in args]
        return lambda value: tuple(read(v) for read, v in zip(each, _a(list, value), strict=True))
    if origin in (tuple, list):
        one, make = reader(args[0]), origin
        return lambda value: make(map(one, _a(list, value)))
    if origin is dict:
        values = reader(args[1])
        return lambda value: {k: values(v) for k, v in _a(dict, value).items()}
    return {Any: _anything, str: lambda value: _a(str, value), int: _whole, float: _number}[kind]


def _dataclass_reader(cls: Any) -> _Reader:
    hints = get_type_hints(cls)
    known = {f.name: reader(hints[f.name]) for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any) -> Any:
        _has(value, needed)
        if extra := set(value) - set(known):
            raise ValueError(f"unknown fields {sorted(extra)}")
        return cls(**{name: known[name](v) for name, v in value.items()})

    return read


def _typed_dict_reader(cls: Any) -> _Reader:
    hints = get_type_hints(cls, include_extras=False)
    known = {name: reader(hint) for name, hint in hints.items()}
    needed = frozenset(cls.__required_keys__)

    def read(value: Any) -> Any:
        _has(value, needed)
        return {name: known.get(name, _anything)(v) for name, v in value.items()}

    return read


def _has(value: Any, needed: set[str] | frozenset[str]) -> None:
    if missing := needed - set(_a(dict, value)):
        raise ValueError(f"missing {sorted(missing)}")


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _whole(value: Any) -> int:
    return int(_number(_a(int, value)))


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not -LARGEST <= value <= LARGEST:
        raise ValueError("not a number of this world")
    return value


def _anything(value: Any) -> Any:
    """Any JSON value whose numbers are numbers."""
    if isinstance(value, Mapping):
        return {k: _anything(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_anything(v) for v in value]
    return value if value is None or isinstance(value, (str, bool)) else _number(value)
