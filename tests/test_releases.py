"""The table of releases: which are run, what is recorded, and that what is said of it elsewhere is true.

This file is none of those that are run for the table: it reads what they gave.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests import releases
from tokenry.hosts.upstream import PROVEN

RELEASES = {"0.9": 0, "0.10": 3, PROVEN[0]: 0}  # and how many tests fail on each


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Releases and parts that were run, with tests that take no time."""
    found: list[tuple[str, tuple[str, ...]]] = []

    def run(release: str, parts: dict[str, list[str]], jobs: int) -> dict[str, Any]:
        found.append((release, tuple(parts)))
        return dict.fromkeys(parts, "1 of 1") | {"failed": RELEASES[release], "minutes": 0.0}

    monkeypatch.setattr(releases, "run", run)
    monkeypatch.setattr(releases, "RESULT", tmp_path / "upstream.json")
    return found


def recorded() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(releases.RESULT.read_text())["releases"]
    return rows


def test_a_release_with_two_roles_runs_once_and_is_recorded_with_its_date(ran: list[Any]) -> None:
    releases.main(["oldest", PROVEN[0]])
    assert ran == [(PROVEN[0], tuple(releases.PARTS))]
    (row,) = recorded()
    assert (row["transformers"], row["role"], row["main job"]) == (PROVEN[0], "oldest", "1 of 1")
    assert row["date"] == json.loads(releases.RESULT.read_text())["date"]


def test_rows_of_other_releases_stay_in_order_and_failures_are_recorded_too() -> None:
    releases.main([PROVEN[0]])
    with pytest.raises(SystemExit, match="1"):
        releases.main(["0.10", "0.9"])
    assert [(row["transformers"], row["failed"]) for row in recorded()] == [
        ("0.9", 0),
        ("0.10", 3),
        (PROVEN[0], 0),
    ]


def test_a_short_run_is_not_recorded(ran: list[Any]) -> None:
    releases.main(["oldest"], short=True)
    assert ran == [(PROVEN[0], tuple(releases.SHORT))]
    assert not releases.RESULT.exists()


def test_what_is_run_exists() -> None:
    paths = [path for part in (*releases.PARTS.values(), *releases.SHORT.values()) for path in part]
    assert [path for path in paths if not (releases.ROOT / path).exists()] == []


def test_the_proven_range_is_that_of_the_recorded_table_and_the_lock_lies_in_it() -> None:
    root = releases.ROOT
    rows = json.loads((root / "docs/results/upstream.json").read_text(encoding="utf-8"))["releases"]
    proven = [row["transformers"] for row in rows]
    assert (proven[0], proven[-1]) == PROVEN
    assert not any(row["failed"] for row in rows)
    lock = dict(
        line.split("==") for line in (root / "constraints.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    )
    assert lock["transformers"] in proven
    asked = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    (own,) = [line for line in asked if line.startswith("transformers")]
    assert own == f"transformers>={PROVEN[0].removesuffix('.0')},<6"
    named = {re.split(r"[<>=]", line)[0].lower() for line in asked}
    assert named <= {name.lower() for name in lock}
