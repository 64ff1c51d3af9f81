"""Question files: every format and form of answer is read, nothing is lost or shifted without a word."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tokenry.data.questions.examples import FolderReport, load_folder
from tokenry.data.questions.files import FORMATS
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


ROW = {"image": "p.png", "question": "is it red, or green?", "answer": "green"}
LINE = json.dumps(ROW)
FILES = {
    "JSON Lines": ("questions.jsonl", f"{LINE}\n{LINE}\n"),
    "JSON Lines, called JSON": ("questions.json", f"{LINE}\n{LINE}"),
    "JSON array": ("questions.json", f"[{LINE},\n{LINE}]"),
    "JSON array, called JSON Lines": ("questions.jsonl", f"[\n{LINE},\n{LINE}]"),
    "JSON object with data": ("questions.json", json.dumps({"info": {"version": 1}, "data": [ROW, ROW]})),
    "JSON object with questions": ("questions.json", json.dumps({"images": [{"id": 1}], "questions": [ROW, ROW]})),
    "JSON object with lists of its own": ("questions.json", "\n".join([json.dumps(ROW | {"items": [{}]})] * 2)),
    "JSON object by id": ("questions.json", json.dumps({"first": ROW, "second": ROW})),
    "CSV": ("questions.csv", 'image,question,answer\np.png,"is it red, or green?",green\n' * 1
            + 'p.png,"is it red, or green?",green\n'),
    "CSV with semicolons": ("questions.csv", "image;question;answer\n" + "p.png;is it red, or green?;green\n" * 2),
    "CSV with tabs": ("questions.csv", "image\tquestion\tanswer\n" + "p.png\tis it red, or green?\tgreen\n" * 2),
    "CSV with Excel's line": ("questions.csv", "sep=|\nimage|question|answer\n"
                              + "p.png|is it red, or green?|green\n" * 2),
    "TSV": ("questions.tsv", "image\tquestion\tanswer\n" + "p.png\tis it red, or green?\tgreen\n" * 2),
    "ending in capitals": ("questions.CSV", "Image;Question;Answer\n" + "p.png;is it red, or green?;green\n" * 2),
    "metadata of an image folder": ("metadata.jsonl", f"{LINE}\n{LINE}\n".replace('"image"', '"file_name"')),
    "table of an image folder": ("metadata.csv", "file_name,text,label\n" + 'p.png,"is it red, or green?",green\n' * 2),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_what_is_read(what: str, folder: Path) -> None:
    report = read(folder, *FILES[what])
    assert report.skipped == ()
    assert [(e.picture, e.question, e.answer) for e in report.examples] == [
        ("p.png", "is it red, or green?", "green")
    ] * 2
    assert len({e.id for e in report.examples}) == 2


def test_every_format_is_among_them_and_has_a_line_of_help() -> None:
    assert {Path(name).suffix.lower() for name, _ in FILES.values()} == set(FORMATS)
    assert all(one.help for one in FORMATS.values())


# ---------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("fields", "answer", "references"),
    [
        ({"answer": "dog"}, "dog", ("dog",)),
        ({"answer": 3}, "3", ("3",)),
        ({"answer": True}, "yes", ("yes",)),
        ({"answers": [False, False, True]}, "no", ("no", "yes")),
        ({"answer": True, "choices": ["True", "False"]}, "true", ("true",)),
        ({"answer": ["cat", "dog", "dog"]}, "dog", ("cat", "dog")),
        ({"answers": ["cat", "dog"]}, "cat", ("cat", "dog")),
        ({"answers": [{"answer": "cat", "answer_id": 1}, {"answer": "dog", "answer_id": 2}]}, "cat", ("cat", "dog")),
        ({"answers": [["cat", "dog"], ["dog"]]}, "dog", ("cat", "dog")),
        ({"answers": [{"by": 1, "answers": ["cat"]}, {"by": 2, "answers": []}]}, "cat", ("cat",)),
        ({"answer": "cat", "answers": [{"answer": "dog"}, {"answer": "dog"}]}, "dog", ("dog", "cat")),
        ({"answer": "cat", "answers": []}, "cat", ("cat",)),
        ({"answers": "cat"}, "cat", ("cat",)),
        ({"answer": "['cat', 'it\\'s a dog']"}, "cat", ("cat", "it's a dog")),
        ({"answer": '["cat", "dog"]'}, "cat", ("cat", "dog")),
        ({"answer": "[1, 2]"}, "[1, 2]", ("[1, 2]",)),
        ({"answer": "[sic]"}, "[sic]", ("[sic]",)),
        ({"answer": ["", None, 5]}, "5", ("5",)),
        ({"answer": float("nan")}, None, ()),  # as pandas writes what is missing
        ({"answer": []}, None, ()),
        ({"answer": " "}, None, ()),
        ({"answer": None}, None, ()),
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


def test_numbers_are_answers_as_the_file_writes_them(folder: Path) -> None:
    written = ("7", "7.0", "1e3", "-0.50", "1" * 5000, "1E400")
    rows = "".join(f'{{"image": "p.png", "question": "how many?", "answer": {one}}}\n' for one in written)
    assert tuple(e.answer for e in read(folder, "questions.jsonl", rows).examples) == written
    rows = "image;question;answer\np.png;how much?;7,50\np.png;how much?;7.0\n"
    assert [e.answer for e in read(folder, "questions.csv", rows).examples] == ["7,50", "7.0"]


@pytest.mark.parametrize("answer", [{"text": "dog"}, [[[["dog"]]]], [{"label": "dog"}], {"answer": None}])
def test_an_answer_in_an_unknown_form_is_named_not_lost(answer: Any, folder: Path) -> None:
    good, bad = ({"image": "p.png", "question": "what?", "answer": one} for one in ("cat", answer))
    report = read(folder, "questions.jsonl", f"{json.dumps(bad)}\n{json.dumps(good)}\n")
    assert [e.id for e in report.examples] == ["questions.jsonl:2"]
    (left_out,) = report.skipped
    assert left_out.places == ("questions.jsonl:1",)
    assert "answer" in left_out.reason


# ------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_cost_no_question(coding: str, folder: Path) -> None:
    rows = [{"image": "p.png", "question": q} for q in ("ein Bär?", "zwei?")]
    for name, text in (
        ("questions.jsonl", "".join(json.dumps(row) + "\r\n" for row in rows)),
        ("questions.json", json.dumps(rows)),
        ("questions.csv", "image,question\r\np.png,ein Bär?\r\np.png,zwei?"),
    ):
        report = read(folder, name, text.encode(coding))
        assert [e.question for e in report.examples] == ["ein Bär?", "zwei?"]
        assert report.skipped == ()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'\n{"image": "p.png", "question": "B\xe4r?"}', r"\.jsonl' is not UTF-8: byte 0xe4 at 34, in line 2"),
        (codecs.BOM_UTF16_LE + b"x", r"is not UTF-16: byte 0x78 at 2, in line 1"),
        ('{"image": "p.png"}'.encode("utf-16-le"), r"NUL character in line 1.*Save it as UTF-8"),
        (b'{"image": "p.png", "question": "why?"}\r\n' * 2000 + b"\xff", r"byte 0xff at 80000, in line 2001.*iconv"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_told_where_and_how_to_mend_them(
    data: bytes, message: str, folder: Path
) -> None:
    with pytest.raises(TokenryError, match=message):
        read(folder, "questions.jsonl", data)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(end: str, folder: Path) -> None:
    row = '{"image": "p.png", "question": "why?"}'
    for name, lines in (
        ("questions.jsonl", ["", row, "", "{broken", row]),
        ("questions.csv", ["image,question", "p.png,why?", "", "p.png", ",", "p.png,why?"]),
    ):
        report = read(folder, name, end.join(lines))
        assert len(report.examples) == 2
        assert [one.places for one in report.skipped] == [(f"{name}:4",)]


def test_characters_that_only_python_takes_for_line_ends_stay_in_a_question(folder: Path) -> None:
    question = "one\u2028two\x85three\x1cfour?"
    row = json.dumps({"image": "p.png", "question": question}, ensure_ascii=False)
    (found,) = read(folder, "questions.jsonl", row).examples
    assert found.question == question
    (found,) = read(folder, "questions.csv", f'image,question\np.png,"{question}\r\nfive?"').examples
    assert found.question == f"{question}\r\nfive?"


def test_text_that_cannot_be_written_is_no_text(folder: Path) -> None:
    rows = ['{"image": "p.png", "question": "\\ud83d?"}', '{"image": "p.png", "question": "\\ud83d\\ude00?"}']
    report = read(folder, "questions.jsonl", "\n".join(rows))
    assert [e.question for e in report.examples] == ["\N{GRINNING FACE}?"]
    assert "half of a character" in report.skipped[0].reason


# ------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "no JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("{", "no JSON: Expecting property name enclosed in double quotes (column 2)"),
        ("[1]", "no JSON object"),
        ('{"image": "p.png", "question": "a?", "image": "q.png"}', "names 'image' twice"),
        ('{"image": "p.png", "question": "a?", "Image": "q.png"}', "two columns 'Image'"),
        (f'{{"image": "p.png", "question": {"[" * 100_000}{"]" * 100_000}}}', "nested too deeply"),
        ('{"image": "p.png", "question": ["a?"]}', "question is empty or no text: \"['a?']\""),
        ('{"image": null, "question": "a?"}', "picture is empty"),
        ('{"image": 7, "question": "a?"}', "picture '7'"),
        (
            f'{{"image_{"9" * 5000}": "p.png", "question": "a?"}}',
            f"found columns: 'image_{'9' * 54}', 'question'",
        ),
        ('{"image": "p.png", "question": "a?", "answer": {"\\ud83d": "\\u001b[31m"}}', r"\ud83d"),
        ('{"image": {"bytes": "iVBO"}, "question": "a?"}', "has no name"),
        (
            '{"motif": "p.png", "question": "a?"}',
            "found columns: 'motif', 'question'; expected one of: image,",
        ),
        (
            '{"image": "p.png", "gist": "a?"}',
            "found columns: 'image', 'gist'; expected one of: question, query",
        ),
    ],
)
def test_a_line_that_cannot_be_used_costs_no_other(line: str, reason: str, folder: Path) -> None:
    report = read(folder, "questions.jsonl", f"{LINE}\n{line}\n{LINE}")
    assert [e.id for e in report.examples] == ["questions.jsonl:1", "questions.jsonl:3"]
    assert [one.places for one in report.skipped] == [("questions.jsonl:2",)]
    assert reason in report.skipped[0].reason
    assert report.skipped[0].reason.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{LINE},\n{LINE}", "no JSON.*line 2"),
        (f"[\n{LINE},\n{LINE[:-1]}, {LINE[1:]}]", "names 'image' twice"),
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "no row"),
        ("7", "no JSON object"),
    ],
)
def test_a_json_file_that_cannot_be_understood_as_a_whole_is_refused(
    text: str, message: str, folder: Path
) -> None:
    with pytest.raises(TokenryError, match=message):
        read(folder, "questions.json", text)


# -------------------------------------------------------------------------------------------------------- CSV


def test_a_csv_row_with_another_number_of_cells_is_named_and_never_shifted(folder: Path) -> None:
    report = read(
        folder,
        "questions.csv",
        "image,question,answer\n"
        "p.png,is it green, or blue?,green\n"
        "p.png,is it round?\n"
        'p.png,"is it green,\nor blue?",green\n'
        "\n"
        "p.png,is it green, or blue?,\n"
        "p.png,why?,\n",
    )  # fmt: skip
    assert [(e.id, e.question, e.answer) for e in report.examples] == [
        ("questions.csv:4", "is it green,\nor blue?", "green"),
        ("questions.csv:8", "why?", None),
    ]
    assert [one.places for one in report.skipped] == [(f"questions.csv:{n}",) for n in (2, 3, 7)]
    assert all("first line names 3" in one.reason for one in report.skipped)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("motif,question\np.png,what?\n", "no picture .found columns: 'motif', 'question'; expected one of: image, im"),
        ("image;gist\np.png;what?\n", "no question .found columns: 'image', 'gist'; expected one of: question, query"),
        ("image,question,Image\np.png,what?,q.png\n", "has two columns 'image'"),
        ('image,question\n\np.png,"what?\np.png,who?\n', "from line 3 on.*another that ends it"),
        (f"image,question\np.png,{'x' * 140_000}\n", "from line 2 on.*larger than field limit.*base64"),
        ("image,question\n", "no row"),
        ("\n\n", "is empty"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_a_csv_file_that_cannot_be_understood_as_a_whole_is_refused(
    text: str, message: str, folder: Path
) -> None:
    with pytest.raises(TokenryError, match=message):
        read(folder, "questions.csv", text)


def test_names_of_columns_are_free_in_case_and_spaces(folder: Path) -> None:
    (found,) = read(folder, "questions.csv", "IMAGE, Question , answer\np.png,what?,a leaf\n").examples
    assert (found.question, found.answer) == ("what?", "a leaf")
    (found,) = read(folder, "questions.csv", "File Name,Question-Type,QUERY\np.png,why,what?\n").examples
    assert (found.question, found.kind) == ("what?", "why")


def test_what_divides_the_cells_is_read_off_the_first_line_alone(folder: Path) -> None:
    rows = "p.png,a;b;c?,1;2;3\n" * 5
    assert {e.question for e in read(folder, "questions.csv", f"image,question,answer\n{rows}").examples} == {
        "a;b;c?"
    }
    (found,) = read(
        folder, "questions.csv", 'image;question;"price, in euros"\np.png;a,b,c,d,e?;1\n'
    ).examples
    assert found.question == "a,b,c,d,e?"


# ------------------------------------------------------------------------------------------------ which file


def test_of_several_files_the_one_called_questions_is_meant(folder: Path) -> None:
    (folder / "results.jsonl").write_text("{}")
    assert read(folder, "questions.csv", "image,question\np.png,why?\n").examples[0].id == "questions.csv:2"
    (folder / "questions.tsv").write_text("image\tquestion\np.png\twhy?\n")
    with pytest.raises(TokenryError, match=r"2 files.*'questions\.csv', 'questions\.tsv'\. Name the one"):
        load_folder(folder)
    assert load_folder(folder / "questions.tsv").examples[0].id == "questions.tsv:2"
    (folder / "questions.tsv").unlink()
    (folder / "questions.csv").rename(folder / "mine.csv")
    with pytest.raises(TokenryError, match=r"2 files.*'mine\.csv', 'results\.jsonl'"):
        load_folder(folder)
    (folder / "mine.csv").rename(folder / "mine.xlsx")
    with pytest.raises(
        TokenryError, match=r"ends in none of \.jsonl, \.json, \.csv, \.tsv. Save a spreadsheet"
    ):
        load_folder(folder / "mine.xlsx")
