"""Which metric and which prompt a comparison is run with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tokenry.bench import METRICS, Metric, Template, metric
from tokenry.bench.reducers.metrics import require_judgeable
from tokenry.data.questions.examples import Example, load_scenes
from tokenry.tokens import InputError, UnknownNameError

EXAMPLE = load_scenes("test", 1)[0]


def half(prediction: str, example: Example, share: float = 0.5) -> float:
    """Half of it.

    More is not said.
    """
    return share


class Judge:
    def __call__(self, prediction: str, example: Example) -> bool:
        return prediction == example.answer


def test_a_metric_is_found_by_name() -> None:
    assert metric("anls") is METRICS["anls"]
    with pytest.raises(UnknownNameError, match=", ".join(METRICS)):
        metric("accuracy")


def test_a_rule_of_ones_own_is_identified_by_its_source() -> None:
    found = metric(half)
    assert found.help == "Half of it."
    assert found.score("x", EXAMPLE) == 0.5
    assert metric(Judge()).score(EXAMPLE.answer or "", EXAMPLE) == 1.0
    rules: list[Any] = [
        half,
        Judge(),
        partial(half, share=0.1),
        partial(half, share=0.2),
        lambda a, b: 0.0,
        lambda a, b: 1.0,
    ]
    assert len({metric(rule).name for rule in rules[:4]}) == 4
    assert metric(half).name == metric(half).name
    named = Metric("mine, version 2", "something", half)
    assert metric(named) is named
    with pytest.raises(InputError, match="has a metric 'exact' already"):
        metric(Metric("exact", "something", half))


def test_data_that_a_metric_cannot_judge_are_refused_unless_some_can_be() -> None:
    lettered = replace(EXAMPLE, answer="B", choices=("x", "y"))
    require_judgeable(METRICS["multiple-choice"], [EXAMPLE, lettered])
    require_judgeable(METRICS["multiple-choice"], [replace(EXAMPLE, answer=None)])
    with pytest.raises(InputError, match="judge none of the examples"):
        require_judgeable(METRICS["multiple-choice"], [EXAMPLE])


def test_braces_that_are_no_placeholders_are_left_alone() -> None:
    asked = replace(EXAMPLE, question="what does {0} mean, {question}?")
    assert (
        Template("Say {x}: {question} {").apply(asked).question
        == "Say {x}: what does {0} mean, {question}? {"
    )
    assert Template().apply(asked) == asked
    with pytest.raises(InputError, match="in it"):
        Template("{Question}")
