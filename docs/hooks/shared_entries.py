"""Entries of docstrings that tell about several parameters at once, such as "width, height: pixels", for griffe.

Its parser knows one name an entry; without this the others would have no documentation.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SHARED = re.compile(r"(?m)^( +)(\w+)((?:, \w+)+): (.+(?:\n\1 +\S.*)*)")


def separated(text: str) -> str:
    """The docstring with an entry for each name; all but the first refer to the first."""

    def entries(found: re.Match[str]) -> str:
        indent, first, others, about = found.groups()
        further = (f"{indent}{name}: See `{first}`." for name in others.removeprefix(", ").split(", "))
        return "\n".join([f"{indent}{first}: {about}", *further])

    return _SHARED.sub(entries, text)


class SharedEntries(griffe.Extension):
    """Separates them in everything that is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """After an object was made, before its documentation is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = separated(obj.docstring.value)
