"""Layouts of known data sets: whose question it is, about which pictures, with which answers and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tokenry.data.questions.columns import COLUMNS
from tokenry.data.questions.examples import FolderReport, load_folder
from tokenry.data.questions.layouts import LAYOUTS
from tokenry.tokens.errors import TokenryError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "green").save(tmp_path / name)
    return tmp_path


def rows(folder: Path, *found: dict[str, Any]) -> FolderReport:
    (folder / "questions.json").write_text(json.dumps(found))
    return load_folder(folder)


def talk(*turns: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]


def test_every_layout_and_column_has_a_line_of_help() -> None:
    assert all(one.help for one in (*LAYOUTS.values(), *COLUMNS.values()))
    names = [name for column in COLUMNS.values() for name in column.names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("field", ["image", "question", "answer", "answers", "choices", "kind"])
def test_every_name_of_a_column_is_read_and_the_first_of_several_counts(field: str, folder: Path) -> None:
    def row(**fields: Any) -> dict[str, Any]:
        values = {"image": "a.png", "question": "what?"} | {field: None}
        return {k: v for k, v in values.items() if v is not None and k != field} | fields

    good, other = {
        "image": ("a.png", "b.png"),
        "choices": (["x", "y"], ["z"]),
    }.get(field, ("mine", "other"))
    names = COLUMNS[field].names
    examples = rows(
        folder, *(row(**{name: good}) for name in names), row(**{names[-1]: other, names[0]: good})
    ).examples
    assert len(examples) == len(names) + 1
    for example in examples:
        found = {"image": example.picture, "question": example.question, "answer": example.answer,
                 "answers": example.answer, "choices": list(example.choices), "kind": example.kind}  # fmt: skip
        assert found[field] == good


# ------------------------------------------------------------------------------------------------------ LLaVA


def test_llava_conversations_are_a_question_for_each_turn(folder: Path) -> None:
    report = rows(
        folder,
        {"id": "one", "image": "a.png", "conversations": talk("<image>\nwhat is it?", "a leaf", "and why?", "so")},
        {"id": "two", "image": "b.png", "conversations": talk("and this?\n<image>", "a tree", "why?")},
    )  # fmt: skip
    assert report.skipped == ()
    assert [(e.id, e.picture, e.question, e.answer) for e in report.examples] == [
        ("one/1", "a.png", "what is it?", "a leaf"),
        ("one/2", "a.png", "and why?", "so"),
        ("two/1", "b.png", "and this?", "a tree"),
        ("two/2", "b.png", "why?", None),
    ]


@pytest.mark.parametrize(
    ("pictures", "text", "question"),
    [
        ("a.png", "<image>what is it?", "what is it?"),
        ("a.png", " <image>\n\nwhat is it?", "what is it?"),
        (["a.png", "b.png"], "<image>\n<image>\nwhich is red?", "which is red?"),
        (["a.png", "b.png"], "<image>\nwhich is red?\n<image>", "which is red?"),
        ("a.png", "<image>\nwhat does the tag <image> mean?", "what does the tag <image> mean?"),
        ("a.png", "what does the tag <image> mean?", "what does the tag <image> mean?"),
        ("a.png", "<image>\n<image> is a tag of what?", "<image> is a tag of what?"),
        ("a.png", "<image>\nwhat is called <image>", "what is called <image>"),
    ],
)
def test_only_the_layouts_own_markers_are_taken_away(
    pictures: str | list[str], text: str, question: str, folder: Path
) -> None:
    (found,) = rows(folder, {"image": pictures, "conversations": talk(text, "x")}).examples
    assert found.question == question


def test_messages_with_roles_and_parts_are_conversations(folder: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "a leaf"},
    ]
    (found,) = rows(folder, {"images": ["a.png"], "messages": messages}).examples
    assert (found.question, found.answer) == ("what is it?", "a leaf")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ("what?", "a list of turns"),
        ([{"value": "x"}], "a turn is"),
        ([7], "a turn is"),
        (talk()[1:], "no turn of a"),
    ],
)
def test_a_conversation_in_another_form_is_told(turns: Any, reason: str, folder: Path) -> None:
    report = rows(folder, {"image": "a.png", "conversations": turns}, {"image": "a.png", "question": "why?"})
    assert len(report.examples) == 1
    assert reason in report.skipped[0].reason


# ------------------------------------------------------------------------------------------------------ VQA v2


def vqa(folder: Path) -> None:
    (folder / "val2014").mkdir()
    for number in (42, 420):
        Image.new("RGB", (8, 8)).save(folder / "val2014" / f"COCO_val2014_{number:012d}.jpg")
    asked = [
        {"image_id": 42, "question": "is it red?", "question_id": 42000},
        {"image_id": 420, "question": "how many?", "question_id": 420001},
        {"image_id": 7, "question": "where?", "question_id": 7000},
    ]
    notes = {
        "question_id": 42000,
        "image_id": 42,
        "question_type": "is it",
        "answer_type": "yes/no",
        "answers": [{"answer": one, "answer_confidence": "yes"} for one in ["no"] * 7 + ["yes"] * 3],
        "multiple_choice_answer": "no",
    }
    kinds = {"info": {}, "data_subtype": "val2014"}
    (folder / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**kinds, "questions": asked})
    )
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**kinds, "annotations": [notes]}))


def test_vqa_questions_find_their_pictures_by_number_and_answers_in_the_other_file(folder: Path) -> None:
    vqa(folder)
    report = load_folder(folder)
    first, second = report.examples
    assert (first.id, first.picture, first.kind) == (
        "42000",
        "val2014/COCO_val2014_000000000042.jpg",
        "is it",
    )
    assert (first.answer, first.answers) == ("no", ("no",) * 7 + ("yes",) * 3)
    assert (second.picture, second.answer) == ("val2014/COCO_val2014_000000000420.jpg", None)
    assert first.image.size == (8, 8)
    assert "'7'" in report.skipped[0].reason


def test_of_several_annotations_the_one_that_is_named_like_the_questions_is_meant(folder: Path) -> None:
    vqa(folder)
    (folder / "v2_mscoco_train2014_annotations.json").write_text("{broken")
    assert load_folder(folder).examples[0].answer == "no"
    (folder / "v2_mscoco_val2014_annotations.json").rename(folder / "other_annotations.json")
    with pytest.raises(TokenryError, match=r"^Several files may hold the answers"):
        load_folder(folder)
    (folder / "other_annotations.json").unlink()
    with pytest.raises(TokenryError, match=r"^'[^']*train2014_annotations\.json' cannot be used"):
        load_folder(folder)  # and not once for every question


def test_a_picture_is_named_by_an_id_without_ending_too(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "003a8ae2ef43b901.jpg")
    found, *_ = rows(
        folder, {"image_id": "003a8ae2ef43b901", "question": "what?", "answers": ["x"] * 10}
    ).examples
    assert (found.picture, len(found.answers)) == ("003a8ae2ef43b901.jpg", 10)
    (folder / "more").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "more" / "a.jpg")
    with pytest.raises(TokenryError, match=r"several pictures are called 'a': 'a\.png', 'more/a\.jpg'"):
        rows(folder, {"image_id": "a", "question": "what?"})


# -------------------------------------------------------------------------------------- several pictures, options


@pytest.mark.parametrize(
    "fields",
    [
        {"image": ["b.png", "a.png"]},
        {"images": [{"path": "b.png", "bytes": None}, {"path": "a.png"}]},
        {"image": '["b.png", "a.png"]'},
        {"image": "['b.png', 'a.png']"},
        {"image_1": "b.png", "image_2": "a.png", "image_3": None},
    ],
)
def test_several_pictures_keep_their_order(fields: dict[str, Any], folder: Path) -> None:
    (found,) = rows(folder, {"question": "which is red?", **fields}).examples
    assert [picture.name for picture in found.pictures] == ["b.png", "a.png"]
    assert found.picture == "b.png + a.png"


def test_of_several_pictures_one_that_is_missing_costs_the_question(folder: Path) -> None:
    report = rows(
        folder, {"question": "a?", "image": ["a.png", "c.png"]}, {"question": "b?", "image": ["a.png"]}
    )
    assert [e.question for e in report.examples] == ["b?"]
    assert "'c.png'" in report.skipped[0].reason
    with pytest.raises(TokenryError, match="one of its pictures has no name"):
        rows(folder, {"question": "a?", "image": ["a.png", ""]})


@pytest.mark.parametrize(
    "fields",
    [
        {"choices": ["red", "7"]},
        {"options": "['red', '7']"},
        {"Options": {"A": "red", "B": "7"}},
        {"choices": ["red", 7]},
        {"A": "red", "B": "7", "C": "", "D": None},
        {"option_a": "red", "option_b": 7},
    ],
)
def test_options_stand_in_a_list_or_in_columns_of_their_own(fields: dict[str, Any], folder: Path) -> None:
    (found,) = rows(folder, {"image": "a.png", "question": "which?", "answer": "A", **fields}).examples
    assert (found.choices, found.answer) == (("red", "7"), "A")


def test_several_pictures_in_a_table(folder: Path) -> None:
    (folder / "q.csv").write_text("image 1,image 2,question\nb.png,a.png,which?\nb.png,,what?\n")
    assert [e.picture for e in load_folder(folder).examples] == ["b.png + a.png", "b.png"]


def test_options_in_a_table(folder: Path) -> None:
    (folder / "q.csv").write_text(
        "image,question,A,B,C,answer\na.png,which?,1,2,,B\na.png,which?,1,,3,C\n"
        "a.png,which?,,,,1\n"
    )  # fmt: skip
    report = load_folder(folder)
    assert [e.choices for e in report.examples] == [("1", "2"), ()]
    assert report.skipped[0].places == ("q.csv:3",)
    assert "option between two others is empty" in report.skipped[0].reason
    for choices in ("red, blue", True, [["red"]], [None]):
        with pytest.raises(TokenryError, match=r"an? (?:option|list)"):
            rows(folder, {"image": "a.png", "question": "which?", "choices": choices})


def test_what_people_said_without_options_is_no_reference_with_them(folder: Path) -> None:
    row = {
        "image": "a.png",
        "question": "which?",
        "correct_choice_idx": 1,
        "direct_answers": ["blue", "navy"],
    }
    assert rows(folder, {**row, "choices": ["red", "blue"]}).examples[0].references == ("1",)
    assert rows(folder, row | {"correct_choice_idx": "blue"}).examples[0].references == ("blue", "navy")


def test_ids_that_questions_share_are_told_apart(folder: Path) -> None:
    row = {"question_id": "scene.png", "image": "a.png", "question": "is it?"}
    report = rows(folder, row, row, {**row, "question_id": None})
    assert [e.id for e in report.examples] == [
        "scene.png",
        "scene.png (questions.json#2)",
        "questions.json#3",
    ]
