"""Faces of rooms: all that they offer is there, and nothing heavy is loaded before it is asked for."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import tokenry
from tokenry.tokens.faces import lazy

ROOMS = [m.name for m in pkgutil.iter_modules(tokenry.__path__) if m.ispkg and m.name != "cli"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_offers_what_it_says(room: str) -> None:
    face = import_module(f"tokenry.{room}")
    assert face.__all__
    assert [name for name in face.__all__ if getattr(face, name, None) is None] == []
    assert set(face.__all__) <= set(dir(face))


def test_lazy_faces_load_nothing_heavy() -> None:
    program = (
        "import sys, tokenry\n"
        "from tokenry import data, embed, learn, predict, text, tokens\n"
        "heavy = sorted({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_offered_is_an_attribute_error() -> None:
    get, names = lazy("tokenry.tokens", {"Budget": "tokens.budget"})
    with pytest.raises(AttributeError, match=r"module 'tokenry\.tokens' has no attribute 'Budgets'"):
        get("Budgets")
    assert get("Budget") is tokenry.Budget
    assert "Budget" in names()
