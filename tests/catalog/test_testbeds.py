"""The tables of docs/testbeds.md: acceptance, what misses block, methods, agreement and probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenry.catalog.testbeds import testbed_tables as tables
from tokenry.tokens.errors import TokenryError

LINES = [
    {
        "line": "blind", "asks": "It looks.", "bound": "at most -30", "verdict": "missed", "value": -12.5,
        "interval": [-15.0, -10.0], "arms": {"all tokens": 60.0, "a grey picture": 47.5},
        "blocks": "that a method is good: it does not look.", "methods": ["aim", "fastv"],
    },
    {
        "line": "resize", "asks": "Size counts.", "bound": "at most -15", "verdict": "passed", "value": -20.0,
        "interval": [-25.0, -15.0], "arms": {}, "note": "No smaller grid.",
    },
    {
        "line": "[CLS]", "asks": "It ranks.", "bound": "at most -10", "verdict": "not applicable",
        "lacks": "It has none.",
    },
]  # fmt: skip
ROW = {"budget": "25%", "interval": [45.0, 55.0], "visual tokens a layer": 36.0}
PROBE = {
    "attention by layer": [{"layer": 0, "mean of heads": 0.5, "best head": 0.75}],
    "attention by chance": 0.25, "naming": 0.9, "naming by chance": 0.01, "lacks": ["No names."],
}  # fmt: skip
BED = {
    "bed": "small", "scenes": "small scenes", "questions": 8, "pictures": 2, "visual tokens": 144,
    "model": {"class": "Llava", "parameters": 6_600_000, "fingerprint": "abc"},
    "lines": LINES,
    "methods": [ROW | {"method": "fastv", "accuracy": 50.0, "by kind": {"place": 75.0, "where": 25.0}}],
    "left out": {"other": "No [CLS]."},
    "probes": [PROBE | {"checkpoint": "early"}, PROBE | {"checkpoint": "small"}],
    "machine": "a machine", "load": [1.0], "versions": {"torch": "2"}, "date": "2026-01-01",
}  # fmt: skip
RANK = {"bed": "small", "beside": "other", "budget": "25%", "tau": 0.5, "methods": 9}


def written(folder: Path, *beds: dict[str, Any], ranks: list[dict[str, Any]]) -> Path:
    for bed in beds:
        (folder / f"testbed-{bed['bed']}.json").write_text(json.dumps(bed))
    (folder / "testbeds.json").write_text(json.dumps({"ranks": ranks}))
    return folder


def test_beds_stand_beside_each_other(tmp_path: Path) -> None:
    other = BED | {"bed": "other", "lines": LINES[:1]}
    text = tables(written(tmp_path, BED, other, ranks=[RANK, RANK | {"budget": "50%", "tau": None}]))
    assert "| line | asks | bound | other | small |" in text
    missed = "**missed**: -12.5 (-15 to -10)"
    assert f"| blind | It looks. | at most -30 | {missed} | {missed} |" in text
    assert "| resize | Size counts. | at most -15 |  | passed: -20 (-25 to -15) |" in text
    assert "| \\[CLS\\] | It ranks. | at most -10 |  | not applicable |" in text
    assert (
        "### What small cannot show\n\n"
        "- *blind*: is missed, which blocks claims that a method is good: it does not look. Of methods: aim, fastv. "
        "Accuracy: all tokens 60; a grey picture 47.5.\n- *resize*: No smaller grid.\n- *\\[CLS\\]*: It has none."
    ) in text
    assert "| fastv | 25% | 50 (45 to 55) | 75 | 25 | 36 |" in text
    assert "- other was left out: No \\[CLS\\]." in text
    assert "| small | other | 0.50 (9 methods) | undecided (9 methods) |" in text
    assert "|  | early | small | by chance |" in text
    assert "| attention of layer 0 | 0.5 / 0.75 | 0.5 / 0.75 | 0.25 |" in text
    assert "| nearest name | 0.9 | 0.9 | 0.01 |\n\n- No names." in text
    assert "Llava, 6.6 M parameters" in text
    assert "load 1; versions torch 2; date 2026-01-01" in text


def test_a_bed_that_misses_nothing_blocks_nothing(tmp_path: Path) -> None:
    good = {k: v for k, v in LINES[1].items() if k != "note"}
    text = tables(written(tmp_path, BED | {"lines": [good]}, ranks=[]))
    assert "### small\n\nEvery line is passed: nothing is blocked." in text
    assert "Two beds are needed" in text


def test_without_beds_there_is_one_sentence_and_other_files_are_refused(tmp_path: Path) -> None:
    assert tables(tmp_path) == "No test bed has been measured yet."
    path = tmp_path / "testbed-broken.json"
    for content, said in (
        ("{", "cannot be read"),
        ("[]", "is no object with bed"),
        (json.dumps(BED), "testbeds"),
    ):
        path.write_text(content)
        with pytest.raises(TokenryError, match=said):
            tables(tmp_path)
