"""What version 0.1 called otherwise: found for one release, with a warning."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

from tokenry.tokens import moved


@pytest.mark.parametrize("line", moved._NAMES, ids=lambda line: line.partition(":")[0])
def test_names_that_have_left_a_module_are_found_there(line: str) -> None:
    module, _, rest = line.partition(":")
    home, *names = rest.split()
    for old, _, new in (name.partition("=") for name in names):
        with pytest.warns(DeprecationWarning, match=rf"tokenry\.{module}\.{old} is now tokenry\.{home}\."):
            found = getattr(import_module(f"tokenry.{module}"), old)
        assert found is getattr(import_module(f"tokenry.{home}"), new or old)


def test_what_a_module_never_had_is_missed() -> None:
    with pytest.raises(AttributeError, match=r"tokenry\.tokens\.view.*no attribute 'nothing'"):
        getattr(import_module("tokenry.tokens.view"), "nothing")  # noqa: B009 - type checkers miss it too


@pytest.mark.parametrize("old", moved._MOVED)
def test_modules_are_found_under_their_old_names(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, f"tokenry.{old}", raising=False)
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = import_module(f"tokenry.{old}")
    assert found is import_module(f"tokenry.{moved._MOVED[old]}")
