"""Question files: every form of answer is kept, nothing is lost or shifted without a word."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tokenry.data.examples import FolderReport, load_folder
from tokenry.tokens.errors import TokenryError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "green").save(tmp_path / "p.png")
    return tmp_path


def read(folder: Path, name: str, text: str | bytes) -> FolderReport:
    for old in folder.glob("questions.*"):
        old.unlink()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_folder(folder)


@pytest.mark.parametrize(
    ("fields", "answer", "references"),
    [
        ({"answer": "dog"}, "dog", ("dog",)),
        ({"answer": 3}, "3", ("3",)),
        ({"answer": True}, "true", ("true",)),
        ({"answer": ["cat", "dog", "dog"]}, "dog", ("cat", "dog")),
        ({"answers": ["cat", "dog"]}, "cat", ("cat", "dog")),
        ({"answers": [{"answer": "cat", "answer_id": 1}, {"answer": "dog", "answer_id": 2}]}, "cat", ("cat", "dog")),
        ({"answer": "cat", "answers": [{"answer": "dog"}, {"answer": "dog"}]}, "dog", ("dog", "cat")),
        ({"answer": "cat", "answers": []}, "cat", ("cat",)),
        ({"answers": "cat"}, "cat", ("cat",)),
        ({"answer": "['cat', 'it\\'s a dog']"}, "cat", ("cat", "it's a dog")),
        ({"answer": '["cat", "dog"]'}, "cat", ("cat", "dog")),
        ({"answer": "[1, 2]"}, "[1, 2]", ("[1, 2]",)),
        ({"answer": "[sic]"}, "[sic]", ("[sic]",)),
        ({"answer": ["", None, 5]}, "5", ("5",)),
        ({"answer": []}, None, ()),
        ({"answer": " "}, None, ()),
        ({}, None, ()),
    ],
)  # fmt: skip
def test_answers_of_every_form_are_references(
    fields: dict[str, Any], answer: str | None, references: tuple[str, ...], folder: Path
) -> None:
    report = read(folder, "questions.jsonl", json.dumps({"image": "p.png", "question": "what?", **fields}))
    assert report.skipped == ()
    (found,) = report.examples
    assert (found.answer, found.references) == (answer, references)


def test_how_often_an_answer_was_given_is_kept(folder: Path) -> None:
    row = {"image": "p.png", "question": "what?", "answers": ["no", *["yes"] * 3]}
    (found,) = read(folder, "questions.jsonl", json.dumps(row)).examples
    assert found.answers == ("no", "yes", "yes", "yes")
    csv = "image,question,answer\np.png,what?,\"['no', 'yes', 'yes', 'yes']\"\n"  # as pandas writes it
    (found,) = read(folder, "questions.csv", csv).examples
    assert (found.answer, found.answers) == ("yes", ("no", "yes", "yes", "yes"))


@pytest.mark.parametrize("answer", [{"text": "dog"}, [["dog"]], [{"label": "dog"}], {"answer": None}])
def test_an_answer_in_an_unknown_form_is_named_not_lost(answer: Any, folder: Path) -> None:
    good, bad = ({"image": "p.png", "question": "what?", "answer": one} for one in ("cat", answer))
    report = read(folder, "questions.jsonl", f"{json.dumps(bad)}\n{json.dumps(good)}\n")
    assert [e.id for e in report.examples] == ["questions.jsonl:2"]
    (line,) = report.skipped
    assert line.startswith("questions.jsonl:1: ")
    assert "answer" in line


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_byte_order_marks_cost_no_question(coding: str, folder: Path) -> None:
    rows = "".join(json.dumps({"image": "p.png", "question": q}) + "\r\n" for q in ("ein Bär?", "zwei?"))
    for name, text in (
        ("questions.jsonl", rows),
        ("questions.csv", "image,question\r\np.png,ein Bär?\r\np.png,zwei?"),
    ):
        report = read(folder, name, text.encode(coding))
        assert len(report.examples) == 2, report.skipped
        assert report.skipped == ()


def test_bytes_that_are_no_text_are_told_where(folder: Path) -> None:
    for data in (b'{"image": "p.png", "question": "B\xe4r?"}', codecs.BOM_UTF16_LE + b"x"):
        with pytest.raises(TokenryError, match=r"questions\.jsonl is not UTF-8"):
            read(folder, "questions.jsonl", data)


def test_characters_that_only_python_takes_for_line_ends_stay_in_a_question(folder: Path) -> None:
    question = "one\u2028two\x85three\x1cfour?"
    row = json.dumps({"image": "p.png", "question": question}, ensure_ascii=False)
    (found,) = read(folder, "questions.jsonl", row).examples
    assert found.question == question


def test_a_csv_row_with_another_number_of_cells_is_named_and_never_shifted(folder: Path) -> None:
    report = read(
        folder,
        "questions.csv",
        "image,question,answer\n"
        "p.png,is it green, or blue?,green\n"
        "p.png,is it round?\n"
        'p.png,"is it green, or blue?",green\n'
        "\n"
        "p.png,is it green, or blue?,\n"
        "p.png,why?,\n",
    )  # fmt: skip
    assert [(e.question, e.answer) for e in report.examples] == [
        ("is it green, or blue?", "green"),
        ("why?", None),
    ]
    assert [line.split(": ")[0] for line in report.skipped] == [f"questions.csv:{n}" for n in (2, 3, 5)]
    assert all("first line names 3" in line for line in report.skipped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "picture,question\np.png,what?\n",
            "does not name the columns image and question; it reads: picture",
        ),
        ("image,question,image\np.png,what?,q.png\n", "has two columns 'image'"),
        ('image,question\np.png,"what?\np.png,who?\n', "another that ends it"),
        ("", "does not name the columns"),
    ],
)
def test_a_csv_file_that_cannot_be_understood_as_a_whole_is_refused(
    text: str, message: str, folder: Path
) -> None:
    with pytest.raises(TokenryError, match=message):
        read(folder, "questions.csv", text)


def test_names_of_columns_may_have_spaces_around_them(folder: Path) -> None:
    (found,) = read(folder, "questions.csv", "image, question , answer\np.png,what?,a leaf\n").examples
    assert (found.question, found.answer) == ("what?", "a leaf")
