"""What pages and cards tell people to type can be typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.command_lines import check
from tokenry.catalog import cards

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


def test_commands_of_cards_exist_with_these_options() -> None:
    lines = [card.shell for card in cards() if card.shell]
    assert lines
    for line in lines:
        check(line)


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
