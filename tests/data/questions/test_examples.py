"""Examples from scenes and from a user's folder, and how answers are judged."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenry.data.questions.examples import (
    Example,
    FolderReport,
    exact_match,
    load_folder,
    load_scenes,
    normalise_answer,
    region_cover,
    region_mask,
)
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


def left_out(report: FolderReport) -> dict[str, str]:
    """Why each place was left out."""
    return {place: one.reason for one in report.skipped for place in one.places}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.png", "is an empty file"),
        ("folder.png", "is no file"),
        ("missing.png", "No such file"),
        ("good.png/x.png", "Not a directory"),
        ("../outside.png", "lies outside the folder"),
        ("..", "lies outside"),
        (".", "is no file"),
        ("/etc/hostname", "lies outside the folder"),
        ("x" * 300, "File name too long"),
        ("n\0l.png", "cannot be the name of a file"),
        ("\ud83d.png", "cannot be the name of a file"),
        ("https://example.org/a.png", "is an address"),
        ("data:image/png;base64,iVBORw0KGgo=", "is an address"),
    ],
)
def test_what_is_no_picture_of_the_folder_is_left_out_and_named(
    name: str, reason: str, tmp_path: Path
) -> None:
    picture(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    questions(tmp_path, *({"image": one, "question": "what?"} for one in ("good.png", name, name)))
    report = load_folder(tmp_path)
    assert [e.picture for e in report.examples] == ["good.png"]
    found = report.skipped[0]
    assert (found.count, found.places) == (2, ("questions.jsonl:2", "questions.jsonl:3"))
    assert re.match(rf"picture '[^']*' (?:cannot be used: )?{reason}", found.reason)
    assert str(found).encode() == f"questions.jsonl:2, questions.jsonl:3: {found.reason}".encode()


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("more/x.png", "more\\x.png"),
        ("B\N{LATIN SMALL LETTER A WITH DIAERESIS}r.png", "Ba\N{COMBINING DIAERESIS}r.png"),
        ("Ba\N{COMBINING DIAERESIS}r.png", "B\N{LATIN SMALL LETTER A WITH DIAERESIS}r.png"),
        ("more\\x.png", "more\\x.png"),
    ],
)
def test_names_that_another_system_wrote_are_found(stored: str, written: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    picture(tmp_path / stored)
    questions(tmp_path, *({"image": name, "question": "what?"} for name in (written, "..\\x.png")))
    report = load_folder(tmp_path)
    assert report.examples[0].image.size == (40, 30)
    assert left_out(report).keys() == {"questions.jsonl:2"}  # and no file that nobody asks about
    assert left_out(report)["questions.jsonl:2"].startswith("picture '..")


def test_a_damaged_picture_is_told_when_it_is_opened(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    questions(tmp_path, *({"image": name, "question": "what?"} for name in ("cut.png", "good.png")))
    cut, good = load_folder(tmp_path).examples
    assert good.image.size == (40, 30)
    with pytest.raises(TokenryError, match=r"Cannot read the picture.*cut\.png"):
        _ = cut.image


def test_files_that_no_question_asks_about_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    for i in range(5):
        (tmp_path / f"stray-{i}.png").touch()
    for other in (".DS_Store", "._good.png", "README.txt"):
        (tmp_path / other).touch()
    picture(tmp_path / "named-whole.png")
    questions(
        tmp_path,
        {"image": "./good.png", "question": "what?"},
        {"image": str(tmp_path / "named-whole.png"), "question": "what?"},
    )
    assert [str(one) for one in load_folder(tmp_path).skipped] == [
        "stray-0.png, stray-1.png, stray-2.png and 2 more: no question asks about it"
    ]


def test_a_limit_ends_the_reading(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    rows = [{"image": "good.png", "question": f"{i}?"} for i in range(3)]
    questions(tmp_path, "{broken", *rows, "{broken")
    report = load_folder(tmp_path, 2)
    assert [e.question for e in report.examples] == ["0?", "1?"]
    assert [one.places for one in report.skipped] == [("questions.jsonl:1",)]


def test_links_lead_nowhere_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "more").mkdir(parents=True)
    outside.mkdir()
    for place in (inside, outside, inside / "more"):
        picture(place / "x.png")
    (inside / "good.png").symlink_to("more/x.png")
    (inside / "loop.png").symlink_to("loop.png")
    (inside / "file.png").symlink_to(outside / "x.png")
    (inside / "out").symlink_to(outside)
    (inside / "more" / "loop").symlink_to("../more")
    good = ["good.png", "more/loop/x.png", "more/../x.png", str(inside / "x.png")]
    bad = ["file.png", "out/x.png", str(outside / "x.png"), "more/../../outside/x.png"]
    questions(inside, *({"image": name, "question": "what?"} for name in [*good, "loop.png", *bad]))
    report = load_folder(inside)
    assert [e.picture for e in report.examples] == good
    reasons = left_out(report)
    assert "symbolic links" in reasons["questions.jsonl:5"]
    assert all("lies outside the folder" in reasons[f"questions.jsonl:{n}"] for n in (6, 7, 8, 9))
    (tmp_path / "link").symlink_to(inside)
    assert len(load_folder(tmp_path / "link").examples) == len(good)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    os.mkfifo(tmp_path / "p.png")
    os.mkfifo(tmp_path / "questions.csv")
    questions(tmp_path, *({"image": name, "question": "what?"} for name in ("p.png", "good.png")))
    report = load_folder(tmp_path)
    assert [e.picture for e in report.examples] == ["good.png"]
    assert left_out(report) == {"questions.jsonl:1": "picture 'p.png' is no file"}
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(TokenryError, match=r"no questions\.jsonl.*'questions\.csv' is no file"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    "name", [b"new\nline.png", b"quote'\".png", b"caf\xe9.png", "\u202egnp.png".encode()]
)
def test_names_of_any_bytes_are_opened_and_can_be_written(name: bytes, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"of \xff")
    folder.mkdir()
    path = folder / os.fsdecode(name)
    picture(path)
    (folder / os.fsdecode(b"stray \xe9.png")).touch()
    questions(folder, *({"image": path.name + more, "question": "what?"} for more in ("", "x")))
    report = load_folder(folder)
    (found,) = report.examples
    assert found.image.size == (40, 30)
    lines = (found.id, found.picture, *map(str, report.skipped))
    assert len(report.skipped) == 2
    assert all(line.isprintable() and line.encode() for line in lines)
    with pytest.raises(TokenryError) as refused:
        load_folder(folder / "nowhere")
    assert str(refused.value).encode()


@pytest.mark.parametrize("rows", [(), ("{broken",), ({"image": "missing.png", "question": "what?"},)])
def test_folder_without_usable_questions_is_an_error(
    tmp_path: Path, rows: tuple[dict[str, object] | str, ...]
) -> None:
    questions(tmp_path, *rows)
    with pytest.raises(TokenryError, match="no usable question"):
        load_folder(tmp_path)


def test_missing_or_empty_folders_are_errors(tmp_path: Path) -> None:
    for name in (tmp_path / "nowhere", "n\0l", "x" * 5000):
        with pytest.raises(TokenryError, match="not a folder and not a file"):
            load_folder(name)
    with pytest.raises(TokenryError, match=r"has no questions\.jsonl"):
        load_folder(tmp_path)
    (tmp_path / "questions.json").mkdir()
    with pytest.raises(TokenryError, match=r"has no questions\.jsonl.*'questions\.json' is no file"):
        load_folder(tmp_path)


def test_one_picture_is_given_as_it_is_or_as_its_file_and_several_by_name(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 3), "red")
    image.save(tmp_path / "red.png")
    one = Example("1", "red.png", image, "what colour?", "red")
    file = Example("2", image=tmp_path / "red.png", question="what colour?")
    assert (one.picture, one.image.size, one.references) == ("red.png", (4, 3), ("red",))
    assert (file.picture, file.image.size, file.answer) == ("2", (4, 3), None)
    assert one.pictures[0].fingerprint != file.pictures[0].fingerprint
    both = Example("3", pictures=[*one.pictures, *file.pictures], question="the same?")
    assert (both.picture, len(both.pictures)) == ("red.png + 2", 2)
    assert replace(both, id="4").pictures == both.pictures
    other = replace(one, image=image.resize((8, 6)))
    assert (other.picture, other.image.size, other.question) == ("red.png", (8, 6), "what colour?")


def test_region_cover_is_the_share_of_a_cell_that_one_box_covers() -> None:
    cover = region_cover([(0, 0, 16, 4), (4, 0, 8, 8)], (32, 32), (4, 4))
    assert cover[0].tolist() == [0.5, 0.5, 0, 0]
    assert not cover[1:].any()
