"""Octopus v4: a worker that converts units, exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from reproductions.predict.octopus_lookups import nearest_name
from tokenry.tokens.errors import InputError

# quantity -> unit -> (size, offset): value in the base unit = value * size + offset
UNITS: Final[Mapping[str, Mapping[str, tuple[Fraction, Fraction]]]] = MappingProxyType(
    {
        quantity: MappingProxyType({name: (Fraction(size), Fraction(offset)) for name, size, offset in units})
        for quantity, units in {
            "length": (
                ("millimetres", "0.001", 0), ("centimetres", "0.01", 0), ("metres", 1, 0), ("kilometres", 1000, 0),
                ("inches", "0.0254", 0), ("feet", "0.3048", 0), ("yards", "0.9144", 0), ("miles", "1609.344", 0),
                ("nautical miles", 1852, 0),
            ),
            "mass": (
                ("grams", "0.001", 0), ("kilograms", 1, 0), ("tonnes", 1000, 0), ("ounces", "0.028349523125", 0),
                ("pounds", "0.45359237", 0), ("stones", "6.35029318", 0),
            ),
            "volume": (
                ("millilitres", "0.001", 0), ("litres", 1, 0), ("gallons", "3.785411784", 0),
                ("pints", "0.473176473", 0), ("fluid ounces", "0.0295735295625", 0),
            ),
            "time": (
                ("seconds", 1, 0), ("minutes", 60, 0), ("hours", 3600, 0), ("days", 86400, 0), ("weeks", 604800, 0),
            ),
            "temperature": (
                ("degrees Celsius", 1, "273.15"), ("kelvins", 1, 0),
                ("degrees Fahrenheit", "5/9", Fraction(45967, 180)),
            ),
        }.items()
    }
)  # fmt: skip


def convert(request: str) -> str:
    """Convert "12.5 miles to kilometres", exactly; decimal fractions that do not end are rounded to ten digits.

    Raises:
        InputError: If the request is none, a unit is unknown, or one is a length, say, and the other a mass.
    """
    found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(.+?)\s+(?:to|in|into)\s+(.+?)\s*", request)
    if found is None:
        raise InputError(f"A conversion is asked for as '12.5 miles to kilometres', got {request!r}")
    (quantity, size, offset), (other, new_size, new_offset) = _unit(found[2]), _unit(found[3])
    if quantity != other:
        raise InputError(f"{found[2]} measure {quantity} and {found[3]} {other}: one is never the other.")
    value = (Fraction(found[1]) * size + offset - new_offset) / new_size
    return f"{found[1]} {found[2]} = {_decimal(value)} {found[3]}"


def _unit(name: str) -> tuple[str, Fraction, Fraction]:
    for quantity, units in UNITS.items():
        if name in units:
            return quantity, *units[name]
    known = [unit for units in UNITS.values() for unit in units]
    raise InputError(f"Unknown unit {name!r}.{nearest_name(name, known)} There are: {', '.join(known)}")


def _decimal(value: Fraction) -> str:
    """All digits of a fraction whose decimals end, else ten significant ones."""
    with localcontext(prec=60) as context:
        context.clear_flags()
        exact = Decimal(value.numerator) / value.denominator
        if context.flags[Inexact]:
            exact = context.create_decimal(f"{exact:.10g}")
        return f"{exact.normalize():f}"
