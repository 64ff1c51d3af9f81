"""Values of JSON and YAML read as the types that a dataclass declares: what is of another type is refused at once.

What is wrong is said with where it stands: "answers[1].loop: there is no setting 'stepz'".
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

LARGEST: Final = 1e30
"""Numbers beyond it count nothing here, and sums of them overflow."""

_Reader = Callable[[Any], Any]
_CALLED: Final = types.MappingProxyType(
    {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        types.NoneType: "nothing",
    }
)


class _MistypedError(ValueError):
    """Something of another type, and where it stands."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(f"{place}: {what}" if place else what)
        self.what, self.place = what, place

    def within(self, outer: str) -> _MistypedError:
        joint = "." if self.place and not self.place.startswith("[") else ""
        return _MistypedError(self.what, f"{outer}{joint}{self.place}")


@cache
def reader(kind: Any) -> _Reader:
    """What reads a value of JSON or YAML as a value of a type: a dataclass, a TypedDict, or made of JSON's own.

    Arrays become lists or tuples as the type says, objects dataclasses or dictionaries, texts paths. A TypedDict may
    hold more than it declares. Numbers are finite, and a truth value is none.

    Returns:
        A function that raises ValueError at a value of another type.
    """
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if is_typeddict(kind):
        return _typed_dict_reader(kind)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union_reader(args)
    if origin is Literal:
        return lambda value: _one_of(args, value)
    if origin is tuple and args[-1] is not Ellipsis:
        return _pair_reader(args)
    if origin in (tuple, list, Sequence):
        return _list_reader(reader(args[0]), list if origin is list else tuple)
    if origin in (dict, Mapping):
        values = reader(args[1])
        return lambda value: {_a(str, k): _inside(str(k), values, v) for k, v in _a(dict, value).items()}
    simple: dict[Any, _Reader] = {
        Any: _anything,
        str: lambda value: _a(str, value),
        bool: lambda value: _a(bool, value),
        Path: lambda value: Path(_a(str, value)),
        int: _whole,
        float: _number,
    }
    return simple[kind]


def _dataclass_reader(cls: Any) -> _Reader:
    hints = get_type_hints(cls)
    known = {f.name: reader(hints[f.name]) for f in fields(cls)}
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}

    def read(value: Any) -> Any:
        if extra := [name for name in _a(dict, value) if name not in known]:
            raise _MistypedError(f"there is no setting {extra[0]!r}, but {', '.join(known)}")
        _has(value, needed)
        return cls(**{name: _inside(name, known[name], v) for name, v in value.items()})

    return read


def _typed_dict_reader(cls: Any) -> _Reader:
    hints = get_type_hints(cls, include_extras=False)
    known = {name: reader(hint) for name, hint in hints.items()}
    needed = frozenset(cls.__required_keys__)

    def read(value: Any) -> Any:
        _has(value, needed)
        return {name: _inside(name, known.get(name, _anything), v) for name, v in value.items()}

    return read


def _union_reader(kinds: Sequence[Any]) -> _Reader:
    some = [reader(one) for one in kinds if one is not types.NoneType]
    optional = len(some) < len(kinds)

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        for one in some[:-1]:
            try:
                return one(value)
            except _MistypedError:
                continue
        return some[-1](value)

    return read


def _list_reader(one: _Reader, make: Callable[[list[Any]], Any]) -> _Reader:
    def read(value: Any) -> Any:
        found: list[Any] = []
        try:
            for v in _a(list, value):
                found.append(one(v))
        except _MistypedError as error:
            raise error.within(f"[{len(found)}]") if isinstance(value, list) else error from None
        return make(found)

    return read


def _pair_reader(kinds: Sequence[Any]) -> _Reader:
    each = [reader(one) for one in kinds]

    def read(value: Any) -> Any:
        if len(_a(list, value)) != len(each):
            raise _MistypedError(f"a list of {len(value)} where one of {len(each)} belongs")
        return tuple(_inside(f"[{n}]", one, v) for n, (one, v) in enumerate(zip(each, value, strict=True)))

    return read


def _inside(place: str, read: _Reader, value: Any) -> Any:
    try:
        return read(value)
    except _MistypedError as error:
        raise error.within(place) from None


def _has(value: Any, needed: set[str] | frozenset[str]) -> None:
    if missing := sorted(needed - set(_a(dict, value))):
        raise _MistypedError(f"it lacks {' and '.join(map(repr, missing))}")


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        found = _CALLED.get(type(value), type(value).__name__)
        raise _MistypedError(f"{found} ({value!r:.40}) where {_CALLED[kind]} belongs")
    return value


def _one_of(choices: Sequence[Any], value: Any) -> Any:
    if value not in choices:
        raise _MistypedError(f"{value!r:.40} where one of {', '.join(map(str, choices))} belongs")
    return value


def _whole(value: Any) -> int:
    return int(_number(_a(int, value)))


def _number(value: Any) -> float:
    if type(value) is str and _reads_as_number(value):
        raise _MistypedError(
            f"{value!r:.40} is a text in YAML, not a number: write a point and a sign, as in 1.0e-3"
        )
    if type(value) not in (int, float):
        return float(_a(float, value))
    if not -LARGEST <= value <= LARGEST:
        raise _MistypedError(f"{value!r:.40} is not a number of this world")
    return value


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _anything(value: Any) -> Any:
    """Any JSON value whose numbers are numbers."""
    if isinstance(value, Mapping):
        return {k: _anything(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_anything(v) for v in value]
    return value if value is None or isinstance(value, (str, bool)) else _number(value)
