"""Code that comes with a model: whether transformers asks to run it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final

from tokenry.hosts.upstream.releases import unknown_release
from tokenry.tokens import UnsupportedError


@contextmanager
def without_questions() -> Iterator[None]:
    """While open, transformers refuses code that comes with a model where it would ask on the keyboard to run it.

    It asks wherever nobody told it `trust_remote_code`, and some of its processors do not hand on what they were told.
    """
    code = import_module("transformers.dynamic_module_utils")
    if not hasattr(code, _SECONDS_TO_ANSWER):
        raise UnsupportedError(unknown_release(f"has no `{_SECONDS_TO_ANSWER}`"))
    before = getattr(code, _SECONDS_TO_ANSWER)
    setattr(code, _SECONDS_TO_ANSWER, 0)
    try:
        yield
    finally:
        setattr(code, _SECONDS_TO_ANSWER, before)


_SECONDS_TO_ANSWER: Final = "TIME_OUT_REMOTE_CODE"
"""How long transformers waits for an answer; 0: it does not ask."""
