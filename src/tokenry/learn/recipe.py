"""What is wrong with a recipe, said in the words of who wrote the file."""

from __future__ import annotations

import re

_UNKNOWN = re.compile(r"unexpected keyword argument '(.+)'")
_MISSING = re.compile(r"missing \d+ required .*arguments?: (.+)")


def reason(error: Exception) -> str:
    """Say why a recipe could not be read.

    Args:
        error: what reading the file, or building the settings from it, raised.
    """
    text = str(error)
    if isinstance(error, OSError):
        return error.strerror or text
    if isinstance(error, KeyError):
        return f"it lacks {text}"
    if isinstance(error, TypeError):
        if unknown := _UNKNOWN.search(text):
            return f"there is no setting {unknown[1]!r}"
        if missing := _MISSING.search(text):
            return f"it lacks {missing[1]}"
    return text
