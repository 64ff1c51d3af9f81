"""The one door to all systems: listing, reading about, getting; and what it says of a system that has no code."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tokenry as tk
from tests.tokens.conftest import unchecked
from tokenry.catalog import cards
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.tokens.errors import InputError, UnknownNameError

__all__ = ["unchecked"]


def test_systems_are_listed_by_room_kind_and_state() -> None:
    assert tk.systems() == cards()
    chosen = tk.systems(room="reduce", kind="reducer", state="done")
    assert "fastervlm" in [card.slug for card in chosen]
    assert {(card.room, card.kind, card.state) for card in chosen} == {("reduce", "reducer", "done")}
    with pytest.raises(UnknownNameError, match="no kind 'gadget'; choose one of reducer"):
        tk.systems(kind="gadget")


def test_a_system_is_told_of_and_got_by_its_slug() -> None:
    assert tk.info("fastervlm").name == "FasterVLM"
    assert tk.get("fastervlm") is FasterVLM
    with pytest.raises(UnknownNameError, match="did you mean fastervlm"):
        tk.get("fastvlm")


@pytest.mark.usefixtures("unchecked")
def test_variants_of_systems_are_got_by_their_names() -> None:
    assert tk.get("retok").slug == "retok"
    with pytest.raises(InputError, match="by name, such as 'fastervlm', not as None"):
        tk.get(None)  # type: ignore[arg-type]


def test_a_system_without_code_cannot_be_got() -> None:
    slug = next(card.slug for card in tk.systems(state="open"))
    with pytest.raises(InputError, match=rf"\({slug}\) is open: .*no code"):
        tk.get(slug)


def test_the_catalogue_opens_without_torch() -> None:
    code = (
        "import sys, tokenry as tk; tk.systems(); tk.info('fastervlm'); "
        "tk.catalog.registry.entries('reducer'); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", [tk, tk.reduce])
def test_method_is_an_old_name_of_reducer(room: object) -> None:
    with pytest.warns(DeprecationWarning, match="method is now tokenry.*reducer"):
        assert room.method is tk.reducer  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="methods is now tokenry.*reducers"):
        assert room.methods is tk.reducers  # type: ignore[attr-defined]
