"""A comparison in the terminal, and for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.bench.reducers import synthetic
from tokenry.bench import as_csv, as_json, as_table
from tokenry.bench.reducers.results import ArmResult, Results, Run, read_results

LONG = "divprune+recoverable-compression(neighbours=12)"


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A comparison with a name as long as chains have."""

    def renamed(name: str) -> str:
        return LONG if name == "poor" else name

    content = [
        replace(line, method=renamed(line.method)) if isinstance(line, ArmResult) else line
        for line in synthetic.lines()
    ]
    run = next(line for line in content if isinstance(line, Run))
    arms = [(renamed(method), budget) for method, budget in run.plan["arms"]]
    content[0] = replace(run, plan=run.plan | {"arms": arms})
    return read_results(synthetic.write(tmp_path / "results.jsonl", content))


def printed(results: Results, width: int, *, whole: bool = False) -> list[str]:
    screen = Console(width=10_000 if whole else width, file=io.StringIO())
    screen.print(as_table(results, width=None if whole else width))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [72, 80, 100, 130, 200])
def test_what_matters_is_legible_at_every_width(results: Results, width: int) -> None:
    """Method, budget, score, interval, tokens and prefill time; other columns are left out and named, none squeezed."""
    lines = printed(results, width)
    assert max(map(cell_len, lines)) <= width
    assert "…" not in "".join(lines)
    fine, *rivals = (line for line in lines if line.startswith("fine") and " 25% " in line)
    for figure in ("100.0", "+0.0 [−16.9, +16.9]", " 4 ", "5.00"):
        assert figure in fine
    assert "+10.0 [−9.2, +26.0]" in (rivals[0] if rivals else fine)
    assert "+25.0 [+1.7, +41.1]" in (rivals[-1] if rivals else fine)
    assert LONG in "".join(line.split(" ")[0] for line in lines), "broken over lines, whole all the same"
    (hidden,) = re.findall("Not shown here: (.*?) \\(--wide", " ".join(lines))
    assert "KV cache" in hidden
    assert "score" not in hidden


@pytest.mark.parametrize("width", [30, 40, 50, 60])
def test_figures_without_room_are_left_out_and_not_squeezed(results: Results, width: int) -> None:
    lines = printed(results, width)
    assert max(map(cell_len, lines)) <= width
    assert "…" not in "".join(lines)
    fine, *_ = (line for line in lines if line.startswith("fine") and " 25% " in line)
    assert "100.0" in fine
    tables = lines[: next(i for i, line in enumerate(lines) if line.startswith("Not shown here"))]
    assert all(line.count("[") == line.count("]") for line in tables), "an interval was broken"


@pytest.mark.parametrize("width", range(60, 130, 3))
def test_counts_that_belong_together_stand_together(results: Results, width: int) -> None:
    """ "12" below "of" says nothing without what is right of them, nor what was lost without what was gained."""
    head = " ".join(printed(results, width)[:2]).split()
    assert ("right" in head) == ("of" in head)
    assert ("lost" in head) == ("gained" in head)


def test_wider_terminals_show_the_baselines_and_counts(results: Results) -> None:
    narrow, wide = (" ".join(printed(results, width)[:2]) for width in (80, 180))
    assert "random" not in narrow
    for heading in ("right", "of", "random", "pool"):
        assert heading in wide.split()


def test_all_columns_are_there_when_asked_for(results: Results) -> None:
    lines = printed(results, 80, whole=True)
    assert not any(line.startswith("Not shown here") for line in lines)
    assert {"FLOPs", "memory", "cache"} <= set(" ".join(lines[:3]).split())
    assert any(line.startswith(LONG) for line in lines)


def test_for_programs_there_is_json_without_holes(results: Results) -> None:
    found = json.loads(as_json(results, choice=["x"]), parse_constant=pytest.fail)
    assert found["choice"] == ["x"]
    assert found["facts"]["model"] == synthetic.FACTS["model"]
    assert found["verdict"].startswith("On 40 questions no method and budget compared here keeps 80 %")
    (row,) = (r for r in found["rows"] if (r["method"], r["budget"]) == ("fine", "25%"))
    assert (row["score"], row["scored"], row["outcomes"]["lost"]) == (1.0, 40, 0)
    assert {r["name"] for r in row["against"]} == {"random", "pool"}
    assert next(r for r in found["rows"] if r["method"] == "picky")["refusal"]


def test_for_programs_there_is_csv_with_a_column_for_each_bound(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert [r["method"] for r in rows][:3] == ["none", "random", "random"]
    (row,) = (r for r in rows if (r["method"], r["budget"]) == (LONG, "25%"))
    low, mean, high = (float(row[f"change_{end}"]) for end in ("low", "mean", "high"))
    assert low < mean < high
    assert mean == pytest.approx(-0.4)
    assert float(row["change_all_rows_low"]) < low
    assert (row["lost"], row["gained"], row["scored"]) == ("16", "0", "40")
    assert {r["refusal"] for r in rows} == {"", "This model has no [CLS] token."}
