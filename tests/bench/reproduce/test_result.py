"""Results of reproductions: the committed files are what the types read, write and judge."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenry.bench.lines import digest
from tokenry.bench.reproduce import (
    Arm,
    Criterion,
    Measurement,
    Outcome,
    Reproduction,
    StudyDesign,
    find,
    systems,
)
from tokenry.bench.reproduce.verdict import judge, verdict
from tokenry.tokens import InputError


def committed(slug: str) -> tuple[str, dict[str, Any]]:
    text = find(slug).path.read_text(encoding="utf-8")
    return text, json.loads(text)


@pytest.mark.parametrize("slug", systems())
def test_a_committed_result_is_read_and_written_back_to_the_letter(slug: str) -> None:
    text, values = committed(slug)
    again = json.dumps(Reproduction.of_json(values).to_json(), indent=1, ensure_ascii=False, allow_nan=False)
    assert again + "\n" == text


@pytest.mark.parametrize("slug", systems())
def test_a_committed_verdict_follows_from_the_committed_measurements(slug: str) -> None:
    design, read = find(slug).design, Reproduction.of_json(committed(slug)[1])
    measured = {judged.criterion.means: judged.measured for judged in read.criteria}
    judged = judge(design.criteria, {c.name: measured[c.means] for c in design.criteria})
    assert [one.holds for one in judged] == [one.holds for one in read.criteria]
    assert verdict(judged) == read.verdict


@pytest.mark.parametrize("slug", systems())
def test_a_committed_result_was_measured_with_the_committed_design(slug: str) -> None:
    design, read = find(slug).design, Reproduction.of_json(committed(slug)[1])
    assert read.settings_hash == digest(design.to_json())
    assert read.claim == design.claim
    assert read.notes == design.notes


def outcome(**tables: Any) -> Outcome:
    ours, baseline = Arm.of("ours", [1.0, 2.0]), Arm.of("theirs", [0.0, 0.0])
    return Outcome("things", ours, baseline, {"x": Measurement.of([1, 2])}, tables=tables)


DESIGN = StudyDesign("c", {}, (Criterion("x", "above", 1, "x is more", decisive=True),), (0, 1), notes=("n",))


def test_an_outcome_is_judged_and_stated_with_its_circumstances() -> None:
    done = Reproduction.of("fastv", DESIGN, outcome(table={"row": {"column": 1}}), 2.04)
    assert (done.verdict, done.ours.value, done.ratio, done.seeds.ours) == ("shown", 1.5, None, (1, 2))
    values = done.to_json()
    assert values["table"] == {"row": {"column": 1}}
    assert (values["notes"], values["seconds"]) == (["n"], 2.0)
    assert {"full", "questions", "model"}.isdisjoint(values)
    assert Reproduction.of_json(values).to_json() == values


def test_a_table_may_not_take_the_name_of_what_every_result_has() -> None:
    with pytest.raises(InputError, match="machine"):
        Reproduction.of("fastv", DESIGN, outcome(machine={}), 1.0)
