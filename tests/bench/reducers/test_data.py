"""Naming data: a built-in set, a folder, or a file of questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tokenry import bench
from tokenry.catalog import cards
from tokenry.data.scenes.style import STYLES
from tokenry.tokens import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    (folder / "questions.csv").write_text("image,question,answer\n" + "p.png,what?,x\n" * 5)
    return folder


def test_a_folder_and_its_file_of_questions_are_the_same_data(folder: Path) -> None:
    for spec in (folder, str(folder), folder / "questions.csv"):
        data = bench.load_data(spec)
        assert (data.name, len(data.examples), data.skipped) == ("mine", 5, ())
    (folder / "questions.csv").rename(folder / "other.csv")
    assert bench.load_data(folder / "other.csv").name == "mine/other.csv"


def test_a_limit_is_of_usable_questions_and_at_least_one(folder: Path) -> None:
    assert len(bench.load_data(folder, 2).examples) == len(bench.load_data("scenes", 2).examples) == 2
    for limit in (0, -1):
        with pytest.raises(InputError, match="leaves nothing"):
            bench.load_data(folder, limit)


def test_scenes_are_drawn_as_the_model_knows_them() -> None:
    asked = {card.slug: card.scenes for card in cards() if card.scenes is not None}
    sides = {style.name: style.side for style in STYLES}
    for model, scenes in [*asked.items(), (None, "small"), ("some/folder", "small")]:
        data = bench.load_data("scenes", 1, model=model)
        assert data.examples[0].image.size == 2 * (sides[scenes],)
        assert str(sides[scenes]) in data.name
    assert len(set(asked.values())) > 2


@pytest.mark.parametrize("spec", ["scene", "no/such", "n\0l", "x" * 5000, ""])
def test_what_is_no_data_is_told(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no data set, folder or file|has no questions"):
        bench.load_data(spec)
