"""The lines of a test bed, on answers that are known: each is passed at its bound and missed beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tokenry.bench.reproduce import Predictions
from tokenry.bench.testbeds import LINES, Bed, Line
from tokenry.bench.testbeds.lines import (
    FULL,
    GONE_LATE,
    GREY,
    MISSED,
    NO_TOKENS,
    NOT_APPLICABLE,
    ORACLE,
    PASSED,
    RANDOM,
    RENUMBERED,
    REVERSED,
)
from tokenry.bench.testbeds.smaller import BLOWN_UP, SMALLER
from tokenry.reduce import reducers

SMALL, BLOWN = f"{SMALLER} (25%)", f"{BLOWN_UP} (25%)"
N = 100
BY_NAME = {line.name: line for line in LINES}


def answers(right: range, elsewhere: float | None = None) -> Predictions:
    """Those numbered in a range are right; every second question asks for a place."""
    correct = np.isin(np.arange(N), right).astype(np.float64)
    if elsewhere is not None:  # of the other half, so many are right
        correct[1::2] = np.arange(N // 2) < elsewhere
    return Predictions(
        correct=correct,
        objects=np.ones(N),
        asked=np.ones(N),
        counts=np.ones((N, 4)),
        text=np.ones(N),
        seeds=np.zeros(N, dtype=int),
        kinds=("where", "place") * (N // 2),
        pictures=tuple(f"p{i // 4}" for i in range(N)),
    )


def first(n: int) -> Predictions:
    return answers(range(n))


# Line, what is answered at its bound, and what changes for the worse.
AT_THE_BOUND = [
    ("blind", {FULL.name: first(80), GREY.name: first(50), NO_TOKENS.name: first(30)}, {GREY.name: first(51)}),
    ("blind", {FULL.name: first(80), GREY.name: first(30), NO_TOKENS.name: first(50)}, {NO_TOKENS.name: first(51)}),
    ("random", {FULL.name: first(80), RANDOM.name: first(65)}, {RANDOM.name: first(66)}),
    ("reversed [CLS]", {RANDOM.name: first(60), REVERSED.name: first(50)}, {REVERSED.name: first(51)}),
    ("oracle", {FULL.name: first(80), ORACLE.name: first(78)}, {ORACLE.name: first(77)}),
    ("resize", {FULL.name: first(80), SMALL: first(20), BLOWN: first(65)}, {BLOWN: first(66)}),
    ("resize", {FULL.name: first(80), SMALL: first(65), BLOWN: first(20)}, {SMALL: first(66)}),
    (
        # Right on small pictures only: no reason to call those hard that the model fails on.
        "hard questions",
        {FULL.name: first(80), SMALL: answers(range(30, 100)), BLOWN: first(10)},
        {SMALL: answers(range(29, 100))},
    ),
    ("late layers", {FULL.name: first(80), GONE_LATE.name: first(78)}, {GONE_LATE.name: first(77)}),
    (
        # Half of the questions ask for a place, and may lose everything.
        "renumbering",
        {ORACLE.name: answers(range(N), 40), RENUMBERED.name: answers(range(0), 35)},
        {RENUMBERED.name: answers(range(0), 34)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "at", "worse"), AT_THE_BOUND)
def test_a_line_is_passed_at_its_bound_and_missed_beyond(
    name: str, at: dict[str, Predictions], worse: dict[str, Predictions], bed_of: Callable[[str], Bed]
) -> None:
    line, bed = BY_NAME[name], bed_of("clip")
    passed, missed = line.judge(bed, at), line.judge(bed, at | worse)
    assert (passed.word, missed.word) == (PASSED, MISSED)
    assert passed.measured is not None
    assert passed.measured.value == pytest.approx(line.bound)
    assert passed.measured.low is not None
    assert passed.measured.low <= line.bound <= (passed.measured.high or 0)
    assert passed.arms == {arm.name: at[arm.name].accuracy for arm in line.arms(bed)}
    told, blocked = passed.to_json(), missed.to_json()
    assert "blocks" not in told
    assert blocked["blocks"] == line.blocks
    assert blocked["interval"][0] < blocked["value"] < blocked["interval"][1]


def test_every_line_is_tried() -> None:
    assert {name for name, *_ in AT_THE_BOUND} == set(BY_NAME)


def test_what_a_bed_lacks_is_said_and_not_judged(bed_of: Callable[[str], Bed]) -> None:
    nowhere = replace(bed_of("clip"), examples=[replace(e, regions=()) for e in bed_of("clip").examples])

    def lacking(bed: Bed) -> set[str]:
        return {line.name for line in LINES if line.judge(bed, _Anything()).word == NOT_APPLICABLE}

    assert lacking(bed_of("clip")) == set()
    assert lacking(bed_of("siglip")) == {"reversed [CLS]"}
    assert lacking(nowhere) == {"oracle", "renumbering"}


class _Anything(dict[str, Predictions]):
    def __missing__(self, name: str) -> Predictions:
        return first(50)


def test_a_miss_blocks_claims_about_the_methods_that_it_concerns(bed_of: Callable[[str], Bed]) -> None:
    methods, bed = [kind() for kind in reducers().values()], bed_of("clip")

    def concerned(line: Line) -> set[str] | None:
        found = line.judge(bed, _Anything(), methods).methods
        return None if found is None else set(found)

    assert concerned(BY_NAME["resize"]) is None
    by_cls = concerned(BY_NAME["reversed [CLS]"])
    inside, renumbered = concerned(BY_NAME["late layers"]), concerned(BY_NAME["renumbering"])
    assert by_cls is not None
    assert "fastervlm" in by_cls
    assert not {"random", "fastv", "divprune"} & by_cls
    assert inside is not None
    assert {"fastv", "pyramiddrop"} <= inside
    assert not {"random", "fastervlm"} & inside
    assert renumbered is not None
    assert "fastervlm" in renumbered
    assert "random" not in renumbered
