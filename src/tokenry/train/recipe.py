"""Recipes on a command line: how such a command ends, and what is wrong with a recipe in the words of who wrote it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from tokenry.tokens.errors import TokenryError

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


def exit_code(work: Callable[[], object]) -> int:
    """Do what ``python -m tokenry.learn.X RECIPE`` asks for, and say in a line why it was not done.

    Args:
        work: the training; it goes on from its last checkpoint when it is called again.

    Returns:
        The process's exit code: 0, 1 after an error of the user's, 130 after Ctrl-C.
    """
    try:
        work()
    except TokenryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    return 0
