"""Committed reproductions: read, checked, shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenry.catalog import card, results
from tokenry.tokens.errors import TokenryError

VALUES = {
    "claim": "half the tokens, the same answers",
    "ours": {"accuracy": 0.91234567, "tokens": 72},
    "baseline": 0.8,
    "ratio": 1.1404,
    "seeds": [0, 1, 2],
    "verdict": "shown",
    "machine": "2 cores",
    "versions": {"torch": "2.13.0"},
    "date": "2026-11-21",
}


def _write(path: Path, values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_rows_are_flat_and_readable(tmp_path: Path) -> None:
    rows = dict(results.read(_write(tmp_path / "x.json", VALUES)).rows())
    assert rows["ours, accuracy"] == "0.9123"
    assert rows["ours, tokens"] == "72"
    assert rows["seeds"] == "0, 1, 2"
    assert rows["versions, torch"] == "2.13.0"


def test_records_become_tables(tmp_path: Path) -> None:
    arms = {"ours": {"accuracy": 0.9, "by seed": [0.91234, 1]}, "random": {"accuracy": 0.5}}
    result = results.read(_write(tmp_path / "x.json", VALUES | {"arms": arms}))
    assert dict(result.tables()) == {
        "arms": [{"": "ours", "accuracy": 0.9, "by seed": [0.91234, 1]}, {"": "random", "accuracy": 0.5}]
    }
    assert not any(label.startswith("arms") for label, _ in result.rows())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "yes"),
        (1, "1"),
        (0.123456, "0.1235"),
        (None, "null"),
        ([0.91234, "a"], "0.9123, a"),
        ({"k": False}, "k no"),
    ],
)
def test_values_as_a_reader_wants_them(value: object, shown: str) -> None:
    assert results.text(value) == shown


@pytest.mark.parametrize("key", results.REQUIRED)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    file = _write(tmp_path / "x.json", {k: v for k, v in VALUES.items() if k != key})
    with pytest.raises(TokenryError, match=f"lacks {key}"):
        results.read(file)


def test_a_verdict_is_one_of_three(tmp_path: Path) -> None:
    with pytest.raises(TokenryError, match="verdict 'great' is none of shown, partly, not shown"):
        results.read(_write(tmp_path / "x.json", VALUES | {"verdict": "great"}))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"shown"'])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TokenryError, match=r"x\.json"):
        results.read(file)


def test_find_looks_where_the_card_says(tmp_path: Path) -> None:
    assert results.find(card("fastervlm"), tmp_path) is None
    _write(tmp_path / "docs/results/fastervlm.json", VALUES)
    found = results.find(card("fastervlm"), tmp_path)
    assert found is not None
    assert found.verdict == "shown"


def test_rows_below_named_columns_are_a_table_too(tmp_path: Path) -> None:
    arms = {"arm": ["accuracy", "tokens"], "full": [0.9, 144], "random": [0.5, 72]}
    layers = {"full": [144, 144], "random": [144, 72]}  # nothing names these columns
    result = results.read(_write(tmp_path / "x.json", VALUES | {"arms": arms, "layers": layers}))
    assert dict(result.tables()) == {
        "arms": [
            {"arm": "full", "accuracy": 0.9, "tokens": 144},
            {"arm": "random", "accuracy": 0.5, "tokens": 72},
        ]
    }
    assert ("layers, random", "144, 72") in result.rows()


def test_criteria_that_decide_come_first(tmp_path: Path) -> None:
    criteria = {
        "besides": {"holds": False, "above": 1.0, "decisive": False, "value": 0.5},
        "the point": {"holds": True, "at least": 3.0, "decisive": True, "value": 4.5, "interval": [3.1, 6]},
    }
    result = results.read(_write(tmp_path / "x.json", VALUES | {"criteria": criteria}))
    assert result.criteria == (
        results.ReportedCriterion("the point", "at least 3", "4.5", "3.1 to 6", True, True),
        results.ReportedCriterion("besides", "above 1", "0.5", "", False, False),
    )
