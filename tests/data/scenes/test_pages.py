"""Pages: deterministic, disjoint splits, flat, and answers that the drawn letters confirm."""

import re

import numpy as np
import pytest

from tokenry.data.questions.examples import load_pages
from tokenry.data.scenes.pages import CELL, ORDINALS, PAGE_KINDS, Page, make_page, page_words
from tokenry.data.scenes.scenes import reserved_words, sign_words
from tokenry.tokens.errors import TokenryError

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def pages() -> dict[str, list[Page]]:
    return {split: [make_page(split, index) for index in range(150)] for split in SPLITS}


def written(page: Page) -> list[list[str]]:
    """The words of each line as a reader finds them: letters by where their pixels are, apart where a gap is wide."""
    lines: dict[int, list[tuple[int, str]]] = {}
    for number, letter in enumerate(page.letters):
        rows, columns = np.nonzero(page.owner == number + 1)
        lines.setdefault(int(rows.min()), []).append((int(columns.min()), letter))
    found = []
    for _, letters in sorted(lines.items()):
        words, before = [""], None
        for x, letter in sorted(letters):
            if before is not None and x - before > 8:
                words.append("")
            words[-1] += letter
            before = x
        found.append(words)
    return found


def test_a_page_is_a_function_of_its_arguments() -> None:
    first, again = make_page("test", 7, 3), make_page("test", 7, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert (first.words, first.ask(9)) == (again.words, again.ask(9))
    assert first.ask(9)[:2] == first.ask(2)
    for other in (make_page("test", 8, 3), make_page("test", 7, 4), make_page("val", 7, 3)):
        assert first.words != other.words


def test_splits_share_no_word_and_no_shape(pages: dict[str, list[Page]]) -> None:
    def shapes(split: str) -> set[object]:
        return {(page.pixels.shape[1], *map(len, written(page))) for page in pages[split]}

    def words(split: str) -> set[str]:
        return {word.text for page in pages[split] for word in page.words}

    for seen in (shapes, words):
        train, val, test = map(seen, SPLITS)
        assert not train & val
        assert not train & test
        assert not val & test


def test_pages_are_whole_cells_and_most_of_them_is_flat(pages: dict[str, list[Page]]) -> None:
    sizes = set()
    for page in pages["test"]:
        height, width = page.pixels.shape[:2]
        sizes.add((height, width))
        assert height % CELL == width % CELL == 0
        cells = page.pixels.reshape(height // CELL, CELL, width // CELL, CELL, 3)
        flat = (cells == page.pixels[0, 0]).all((1, 3, 4)).mean()
        assert flat > 0.35
    assert len(sizes) >= 4


def test_the_drawn_letters_confirm_every_answer(pages: dict[str, list[Page]]) -> None:
    kinds: set[str] = set()
    for page in pages["train"] + pages["test"]:
        lines = written(page)
        words = [word for line in lines for word in line]
        assert words == [word.text for word in page.words]
        for question in page.ask(9):
            kinds.add(question.kind)
            assert question.answer == read(question.kind, question.text, lines, words, page), question
            assert question.regions
    assert kinds == set(PAGE_KINDS)


def read(kind: str, text: str, lines: list[list[str]], words: list[str], page: Page) -> str:
    """What a reader of the page would answer."""
    if kind == "lines":
        return str(len(lines))
    if kind == "words":
        return str(len(words))
    if kind == "ink":
        return page.ink
    if kind == "nth":
        which = text.removeprefix("what is the ").removesuffix(" word?")
        return words[-1 if which == "last" else ORDINALS.index(which)]
    named = re.fullmatch(r"(?:which word follows|which word is below|is) (\w+?)(?: there)?\?", text)
    assert named
    if kind == "written":
        return "yes" if named[1] in words else "no"
    if kind == "follows":
        return words[words.index(named[1]) + 1]
    line, column = next((i, line.index(named[1])) for i, line in enumerate(lines) if named[1] in line)
    return lines[line + 1][column]


def test_letters_are_drawn_in_ink_on_the_ground() -> None:
    page = make_page("test", 3)
    ground = page.pixels[0, 0].astype(int)
    for number in range(len(page.letters)):
        here = page.pixels[page.owner == number + 1].astype(int)
        assert np.abs(here - ground).max() > 100
    assert (page.pixels[page.owner == 0] == page.pixels[0, 0]).all()


def test_new_words_begin_no_word_of_a_page() -> None:
    new = page_words() - reserved_words()
    for split in SPLITS:
        assert not [word for word in sign_words(split) if any(word[:n] in new for n in range(2, 5))]


def test_examples_of_pages_share_their_picture() -> None:
    examples = load_pages("test", 8, per_page=4)
    assert len({example.id for example in examples}) == 8
    assert examples[0].pictures[0] is examples[3].pictures[0]
    assert not examples[0].video
    with pytest.raises(TokenryError, match="`n` and `per_page` must be at least 1"):
        load_pages("test", 0)


@pytest.mark.parametrize(("split", "index"), [("dev", 0), ("test", -1)])
def test_what_cannot_be_drawn_is_refused(split: str, index: int) -> None:
    with pytest.raises(TokenryError, match=r"Unknown split|must not be negative"):
        make_page(split, index)
