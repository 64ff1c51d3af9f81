"""The examples of the cards run as pages and `tokenry info` print them."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import pytest

from tokenry.catalog import Card, cards
from tokenry.models.pretrained import PACKAGED

USABLE = [card for card in cards() if card.state != "open"]


def _marks(card: Card) -> list[pytest.MarkDecorator]:
    """Models with a name that do not come with tokenry have to be fetched."""
    fetched = any(f'"{name}"' in (card.example or "") for name in PACKAGED)
    return [pytest.mark.packages] if fetched else []


@pytest.mark.parametrize("card", [pytest.param(card, id=card.slug, marks=_marks(card)) for card in USABLE])
def test_example_runs(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card.example is not None, "a system that can be used says how"
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # dont_inherit: the reader's file does not begin with this one's `from __future__`
    exec(compile(card.example, f"{card.slug}.toml", "exec", dont_inherit=True), module.__dict__)


def test_examples_fit_on_a_page_and_import_no_deep_path() -> None:
    for card in USABLE:
        lines = (card.example or "").splitlines()
        assert max(map(len, lines)) <= 80, card.slug
        imported = [line.split()[1] for line in lines if line.startswith("from tokenry")]
        deep = [name for name in imported if not hasattr(import_module(name), "__path__")]
        assert deep == [], f"{card.slug}: packages are public, the modules in them may move"
