"""Designs of studies, and the verdicts that rest on their criteria."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tokenry.bench.reproduce import BY_SEED, Criterion, Measurement, find
from tokenry.bench.reproduce.verdict import judge, verdict
from tokenry.tokens import InputError


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1, 1), "shown"), ((1, 0), "partly"), ((0, 1), "not shown"), ((0, 0), "not shown")],
)
def test_the_verdict_rests_on_decisive_criteria(values: tuple[float, float], expected: str) -> None:
    criteria = (
        Criterion("a", "at_least", 1, "a is large", decisive=True),
        Criterion("b", "above", 0.5, "b is large"),
    )
    judged = judge(criteria, {"a": Measurement(values[0]), "b": Measurement(values[1])})
    assert verdict(judged) == expected
    holds = {"holds": values[0] == 1, "at least": 1, "decisive": True, "value": values[0]}
    assert judged[0].to_json(BY_SEED) == holds


def test_bounds_are_read_literally_and_not_a_number_never_holds() -> None:
    assert Criterion("x", "at_least", 2, "").holds(2.0)
    assert Criterion("x", "at_most", 2, "").holds(2.0)
    assert not Criterion("x", "above", 2, "").holds(2.0)
    for kind in ("at_least", "at_most", "above"):
        assert not Criterion("x", kind, 2, "").holds(math.nan)


def test_a_criterion_about_nothing_that_was_measured_is_refused() -> None:
    with pytest.raises(InputError, match="speed"):
        judge((Criterion("speed", "above", 0, "fast", decisive=True),), {"accuracy": Measurement(1.0)})


_CRITERIA = "criteria: {x: {above: 0, means: m, decisive: true}}"


@pytest.mark.parametrize(
    "text",
    [
        "claim: c",
        "{",
        f"claim: c\nquestions: {{seeds: []}}\nsettings: {{}}\n{_CRITERIA}",
        f"claim: c\nseeds: [1]\nsettings: {{}}\nsmoke: {{steps: 1}}\n{_CRITERIA}",
        "claim: c\nquestions: {seeds: [1]}\nsettings: {}\ncriteria: {x: {above: 0, means: m}}",
        "claim: c\nquestions: {seeds: [1]}\nsettings: {}\ncriteria: {x: {above: 0, at_most: 1, means: m}}",
        "claim: c\nquestions: {seeds: [1], picture: 3}\nsettings: {}\ncriteria: {}",
    ],
)
def test_a_wrong_design_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fastv.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        find("fastv", designs=tmp_path)
