"""Errors a user can meet. Every message says what was wrong, with what value, and what to do about it."""


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
