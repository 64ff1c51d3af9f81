"""What each metric counts as right, on cases worked out from its definition."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tokenry.data.images.pictures import Picture
from tokenry.data.questions.choices import list_choices, meant, named
from tokenry.data.questions.examples import Example
from tokenry.data.questions.metrics import METRICS, Metric
from tokenry.data.questions.vqa_answers import normalise_vqa
from tokenry.tokens import InputError

PICTURE = Picture("a picture", Image.new("RGB", (4, 4)))
CHOICES = ("a red cat", "a blue dog", "Vitamin C", "none of the above")


def example(*answers: str, choices: tuple[str, ...] = ()) -> Example:
    return Example(
        "q", pictures=(PICTURE,), question="what?", answer=answers[0], answers=answers, choices=choices
    )


def score(name: str, prediction: str, *answers: str, **more: Any) -> float:
    return METRICS[name].score(prediction, example(*answers, **more))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_all_for_the_reference_and_nothing_for_something_else(name: str) -> None:
    choices = CHOICES if name == "multiple-choice" else ()
    assert score(name, "a blue dog", "a blue dog", choices=choices) == 1.0
    assert score(name, "seventeen parrots", "a blue dog", choices=choices) == 0.0
    assert METRICS[name].help[-1] != "."


def test_exact_takes_the_best_of_the_references() -> None:
    assert score("exact", "The Cat.", "dog", "cat") == 1.0
    assert score("exact", "cats", "dog", "cat") == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "found"),
    [
        ("It is a cat, I think.", "The cat", True),
        ("concatenate", "cat", False),
        ("cats", "cat", False),
        ("I can't tell", "can", False),
        ("it reads 3.5 cm", "3", False),
        ("there are 1,300", "300", False),
        ("the total is €48.20.", "€48.20", True),
        ("written in C++, mostly", "c++", True),
        ("它是红色的", "红色", True),
        ("in New York City", "new york", True),
        ("anything", "?", False),
        ("it is not a cat", "cat", True),
    ],
)
def test_contains_looks_for_whole_words(prediction: str, reference: str, found: bool) -> None:
    assert score("contains", prediction, reference) == found
    assert score("contains", prediction, "zebra", reference) == found


@pytest.mark.parametrize(("same", "share"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_people(same: int, share: float) -> None:
    """The table everybody knows: leaving one of `same` people out, the others are one fewer."""
    answers = ["yes"] * same + [f"other {i}" for i in range(10 - same)]
    assert score("vqa", "Yes.", *answers) == pytest.approx(share)


def test_vqa_accuracy_of_fewer_people() -> None:
    assert score("vqa", "yes", "yes") == 1.0
    assert score("vqa", "yes", "yes", "yes") == 1.0
    assert score("vqa", "yes", "yes", "no") == 0.5
    assert score("vqa", "yes", "yes", "yes", "no") == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert score("vqa", "yes", "yes", "yes", "yes", "no") == pytest.approx((2 / 3 * 3 + 1) / 4)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Dont", "don't"),
        ("couldn’tve", "couldn't've"),
        ("Its", "its"),
        ("the girl's", "girl's"),
        ("2:50 p.m.", "2:50 pm"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("Three, or four", "3 or 4"),
        ("None", "0"),
        ("well-known/red", "well known red"),
        ("$5", "$5"),
        ("An", "an"),
        ("?", ""),
    ],
)
def test_answers_as_the_vqa_evaluation_compares_them(answer: str, normal: str) -> None:
    assert normalise_vqa(answer) == normal


def test_anls_is_the_similarity_of_the_nearest_reference_and_nothing_from_half_on() -> None:
    assert score("anls", "Invoic", "invoice") == pytest.approx(6 / 7)
    assert score("anls", "invoice  No 7", "Receipt", "INVOICE no 8") == pytest.approx(11 / 12)
    assert score("anls", "abcd", "abzz") == 0.0
    assert score("anls", "abcde", "abczz") == pytest.approx(0.6)
    assert score("anls", "", "x") == 0.0


@pytest.mark.parametrize(
    ("answer", "letters"),
    [
        ("B", "B"),
        ("b", "B"),
        (" (b) ", "B"),
        ("**B**.", "B"),
        ("（Ｂ）", "B"),
        ("答案是B。", "B"),
        ("B) a blue dog", "B"),
        ("b. a red cat", "B"),
        ("A: it is red", "A"),
        ("The answer is B", "B"),
        ("the answer is a.", "A"),
        ("Answer: **b** (it is blue)", "B"),
        ("The answer is A because of its colour", "A"),
        ("Option a shows it", "A"),
        ("I think B, since there is no cat", "B"),
        ("\\boxed{D}", "D"),
        # Articles, pronouns, abbreviations and parts of words are no letters of options.
        ("A blue dog", "B"),
        ("The answer is a blue dog.", "B"),
        ("A cat, I guess", ""),
        ("U.S.", ""),
        ("a C-section", ""),
        ("vitamin C", "C"),
        ("It contains Vitamin c!", "C"),
        ("None of the above", "D"),
        ("red cat", "A"),
        # Several, or none.
        ("A or B", "AB"),
        ("Not A but C", "AC"),
        ("a red cat, not a blue dog", "AB"),
        ("E", ""),
        ("a green cat", ""),
        ("", ""),
    ],
)
def test_the_option_that_an_answer_names(answer: str, letters: str) -> None:
    assert named(answer, CHOICES) == frozenset(letters)
    right = score("multiple-choice", answer, "B", choices=CHOICES)
    assert right == (letters == "B")


def test_of_options_within_one_another_the_longest_counts() -> None:
    assert named("it is a hot dog", ("a dog", "a hot dog")) == {"B"}
    assert named("there are 2", ("2", "12")) == {"A"}
    assert named("x", ("x", "y")) == {"A"}


def test_a_reference_is_a_letter_a_text_or_an_index() -> None:
    for reference, letter in (("b", "B"), ("(C)", "C"), ("A red cat.", "A"), ("0", "A"), ("3", "D")):
        assert meant(reference, CHOICES) == letter
    assert meant("2", ("1", "2", "3")) == "B"
    for wrong in ("4", "a green cat", "E", "9" * 5000):
        with pytest.raises(InputError, match=r"A\. a red cat; B\. a blue dog"):
            meant(wrong, CHOICES)


def test_options_that_stand_in_the_question_have_letters_only() -> None:
    assert score("multiple-choice", "c) green", "C") == 1.0
    with pytest.raises(InputError, match="only a letter"):
        score("multiple-choice", "green", "green")
    with pytest.raises(InputError, match="27 options"):
        list_choices(["x"] * 27)


@pytest.mark.parametrize("given", [float("nan"), 1.5, -0.1, None, "much", [1.0]])
def test_a_score_is_a_number_from_0_to_1(given: Any) -> None:
    with pytest.raises(InputError, match=r"The metric mine gave .* for the answer to 'q'"):
        Metric("mine", "something", lambda prediction, example: given).score("yes", example("yes"))
