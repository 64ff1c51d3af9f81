"""The catalogue as it stands: complete, and what it calls done is done."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from tokenry.catalog import Card, cards, results
from tokenry.catalog.docstrings import docstring
from tokenry.tokens.errors import TokenryError

ROOT = Path(__file__).parents[2]
CALLABLE = [card for card in cards() if card.entry_point is not None]
DONE = [card for card in cards() if card.state == "done"]


def _id(card: Card) -> str:
    return card.slug


def test_exactly_the_systems_of_the_list() -> None:
    lines = (Path(__file__).parent / "systems.tsv").read_text(encoding="utf-8").splitlines()
    wanted = dict(line.split("\t") for line in lines)
    assert len(wanted) == 108
    assert {card.slug: card.room for card in cards(baseline=False)} == wanted


def test_no_two_systems_share_a_paper_or_a_title() -> None:
    for field in ("arxiv", "title", "entry_point"):
        values = [value for card in cards() if (value := getattr(card, field)) is not None]
        assert sorted(set(values)) == sorted(values)


@pytest.mark.parametrize("card", CALLABLE, ids=_id)
def test_entry_point_is_there_and_says_what_it_is(card: Card) -> None:
    assert card.entry_point is not None
    module, _, name = card.entry_point.partition(":")
    entry = getattr(import_module(module), name)
    assert callable(entry)
    assert docstring(card.entry_point).splitlines()[0] == (entry.__doc__ or "").splitlines()[0]
    if card.arxiv:
        assert card.arxiv in docstring(card.entry_point), "the docstring names its paper"


@pytest.mark.parametrize("card", [card for card in CALLABLE if card.room == "reduce"], ids=_id)
def test_reducer_agrees_with_its_card(card: Card) -> None:
    assert card.entry_point is not None
    module, _, name = card.entry_point.partition(":")
    reducer = getattr(import_module(module), name)
    assert reducer.slug == card.slug
    assert reducer.stage == card.stage


@pytest.mark.parametrize("card", DONE, ids=_id)
def test_done_means_page_tests_and_reproduction(card: Card) -> None:
    assert (ROOT / card.page).is_file(), "no docs page: make docs-generate"
    assert (ROOT / card.tests).is_file(), "no tests"
    if card.link is not None:  # a baseline without a paper claims nothing that could be reproduced
        assert results.find(card, ROOT) is not None, "no committed reproduction"


def test_every_committed_reproduction_is_valid() -> None:
    for card in cards():
        results.find(card, ROOT)  # raises, naming the file, if there is one that is damaged


def test_docstring_of_what_is_not_there() -> None:
    with pytest.raises(TokenryError, match="no module"):
        docstring("tokenry.reduce.nothing:Nothing")
    with pytest.raises(TokenryError, match="no class or function 'Nothing'"):
        docstring("tokenry.catalog.card:Nothing")
