"""Examples from scenes and from a user's folder, and how answers are judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenry.data.examples import exact_match, load_folder, load_scenes, normalise_answer, region_mask
from tokenry.tokens.errors import TokenryError


def picture(path: Path, colour: str = "red") -> None:
    Image.new("RGB", (40, 30), colour).save(path)


def questions(folder: Path, *rows: dict[str, object] | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Top  Left. ", "top left"),
        ("a dog", "dog"),
        ("An Apple!", "apple"),
        ("the", "the"),
        ("'2'", "2"),
        ("", ""),
    ],
)
def test_normalise_answer(text: str, expected: str) -> None:
    assert normalise_answer(text) == expected


def test_exact_match_is_whole_answers() -> None:
    assert exact_match("The hot dog.", "hot dog")
    assert not exact_match("hot", "hot dog")


def test_load_scenes_returns_exactly_n_and_shares_pictures() -> None:
    examples = load_scenes("test", 10, per_scene=4)
    assert len(examples) == 10
    assert len({example.id for example in examples}) == 10
    assert [example.picture for example in examples[:4]] == ["test-0-0"] * 4
    assert examples[0].pictures[0] is examples[3].pictures[0]
    assert len({example.kind for example in examples[:4]}) == 4
    assert [e.answer for e in load_scenes("test", 6)] == [e.answer for e in examples[:6]]
    for n, per_scene in ((0, 1), (3, 0)):
        with pytest.raises(TokenryError):
            load_scenes("test", n, per_scene=per_scene)


def test_region_mask_counts_covered_area() -> None:
    mask = region_mask(((0, 0, 16, 4),), (32, 32), (4, 4), share=0.5)
    expected = np.zeros((4, 4), dtype=bool)
    expected[0, :2] = True
    assert np.array_equal(mask, expected)
    assert not region_mask(((0, 0, 16, 3),), (32, 32), (4, 4), share=0.5).any()
    assert not region_mask((), (32, 32), (4, 4)).any()


def test_folder_reads_json_lines_and_csv(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    questions(
        tmp_path, {"image": "a.png", "question": "what?", "answer": 3}, {"image": "a.png", "question": "why?"}
    )
    report = load_folder(tmp_path)
    assert [(e.question, e.answer) for e in report.examples] == [("what?", "3"), ("why?", None)]
    assert report.examples[0].image.size == (40, 30)
    assert report.skipped == ()

    (tmp_path / "questions.jsonl").unlink()
    (tmp_path / "questions.csv").write_text('image,question,answer\na.png,"what, then?",red\na.png,why?,\n')
    report = load_folder(tmp_path)
    assert [(e.question, e.answer) for e in report.examples] == [("what, then?", "red"), ("why?", None)]


def test_folder_skips_what_cannot_be_used_and_says_so(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "x.png"
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:2000])
    (tmp_path / "x.png").unlink()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "stray.txt").write_text("hello")
    questions(
        tmp_path,
        {"image": "good.png", "question": "what?", "answer": "red"},
        {"image": "cut.png", "question": "what?"},
        {"image": "text.png", "question": "what?"},
        {"image": "missing.png", "question": "what?"},
        {"image": "../outside.png", "question": "what?"},
        {"image": "good.png"},
        "{broken",
        "[1, 2]",
    )
    report = load_folder(tmp_path)
    assert [e.picture for e in report.examples] == ["good.png"]
    text = "\n".join(report.skipped)
    for reason in (
        "cut.png",
        "text.png",
        "missing.png",
        "outside the folder",
        "no question",
        ":7:",
        ":8:",
        "stray.txt",
    ):
        assert reason in text


@pytest.mark.parametrize("rows", [(), ("{broken",), ({"image": "missing.png", "question": "what?"},)])
def test_folder_without_usable_questions_is_an_error(
    tmp_path: Path, rows: tuple[dict[str, object] | str, ...]
) -> None:
    questions(tmp_path, *rows)
    with pytest.raises(TokenryError, match="no usable question"):
        load_folder(tmp_path)


def test_missing_or_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match="not a folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(TokenryError, match=r"has no questions\.jsonl"):
        load_folder(tmp_path)
    (tmp_path / "questions.csv").write_bytes(b"image,question\n\xff\xfe,x\n")
    with pytest.raises(TokenryError, match="UTF-8"):
        load_folder(tmp_path)
