"""What pages and cards tell people to type can be typed."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import tokenry
from tests.docs.command_lines import check
from tokenry.catalog import Card, cards

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINES = {
    page.name: [
        line for block in _BLOCK.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()
    ]
    for page in _PAGES
}


@pytest.mark.parametrize("page", [page for page, lines in _LINES.items() if lines])
def test_commands_on_pages_exist_with_these_options(page: str) -> None:
    for line in _LINES[page]:
        check(line)


@pytest.mark.parametrize("card", [card for card in cards() if card.usage], ids=lambda card: card.slug)
def test_what_a_card_says_to_use_exists(card: Card) -> None:
    for line in card.usage:
        if line.startswith(("tokenry ", "python ")):
            check(line)
            continue
        (statement,) = ast.parse(line).body
        if isinstance(statement, ast.ImportFrom):
            assert statement.module is not None
            assert hasattr(import_module(statement.module), statement.names[0].name)
        elif line.startswith("tk."):
            assert line.split(".")[1].split("(")[0] in tokenry.__all__
        else:
            assert card.entry_point is not None
            assert f"{card.entry_point.partition(':')[2]}(" in line, "the entry point is called"


@pytest.mark.parametrize(
    "line",
    [
        "tokenry comparee",
        "tokenry reduce compare --methodz x",
        "make nothing",
        "python -m tokenry.nothing",
        "lss",
    ],
)
def test_what_does_not_exist_is_noticed(line: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - of the parser, or an assertion
        check(line)
