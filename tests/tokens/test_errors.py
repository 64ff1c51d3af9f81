"""Errors: one base that catches them all, and the built-in kinds that callers expect."""

from __future__ import annotations

import pickle

import pytest

from tokenry.tokens import errors


def own() -> list[type[Exception]]:
    return [e for e in vars(errors).values() if isinstance(e, type) and e.__module__ == errors.__name__]


@pytest.mark.parametrize("error", own())
def test_one_base_catches_every_error(error: type[Exception]) -> None:
    assert issubclass(error, errors.TokenryError)
    assert error.__doc__
    with pytest.raises(errors.TokenryError, match="what to do"):
        raise error("what to do")


@pytest.mark.parametrize("error", own())
def test_the_message_is_shown_as_written_and_survives_a_process_boundary(error: type[Exception]) -> None:
    """A LookupError would be shown in quotes if it were a KeyError."""
    again = pickle.loads(pickle.dumps(error("There is no 'x'.")))
    assert type(again) is error
    assert str(again) == "There is no 'x'."


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.BudgetError, ValueError),
        (errors.ReductionError, ValueError),
        (errors.InputError, ValueError),
        (errors.UnknownNameError, LookupError),
    ],
)
def test_they_are_the_built_in_kind_too(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)
