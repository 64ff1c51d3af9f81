"""Errors a user can meet. Every message says what was wrong, with what value, and what to do about it."""

from typing import Final

_LONGEST: Final = 240
"""Characters of what another library says that a message quotes."""


class TokenryError(Exception):
    """Base of all errors that tokenry raises on purpose; catching it catches every one of them."""


class BudgetError(TokenryError, ValueError):
    """A token budget that means nothing: zero, negative, not a number, a share above 100 %."""


class ReductionError(TokenryError, ValueError):
    """A reduction that is not one: an index out of range or twice, an empty group, a score that is not a number."""


class InputError(TokenryError, ValueError):
    """Something the user handed in cannot be used: a text-only call, an unreadable picture, an empty folder."""


class ItemError(InputError):
    """One item of a file or a folder cannot be used.

    Its message is no sentence but goes on from the place that its reader puts before it: "questions.jsonl:3: no JSON".
    """


class UnsupportedError(TokenryError):
    """The model in hand cannot do what was asked; the message names what it can do."""


class UnknownNameError(TokenryError, LookupError):
    """A method, system, data set or column of that name does not exist; the message suggests the nearest."""


def gist(error: Exception) -> str:
    """What an error of another library says first, without its full stop; what kind it is, if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    more = 2 if lines and lines[0].endswith(":") else 1
    said = " ".join(lines[:more]).rstrip(".:") or type(error).__name__
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    if isinstance(error, ImportError):
        said = said.partition(". ")[0]  # what is missing; then come instructions for other environments
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} ..."
