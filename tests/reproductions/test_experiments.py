"""Every experiment, with the settings of its rehearsal and a tiny random model in the embedded one's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.reproduce.conftest import lab, tiny
from tokenry.bench.reproduce import VqaLab, find, reproduce, systems
from tokenry.catalog import results

__all__ = ["lab", "tiny"]


def studies() -> Iterator[Any]:
    """All of them; those that train models of their own read texts out of packages."""
    for slug in systems():
        own = find(slug).design.questions is None
        yield pytest.param(slug, marks=[pytest.mark.packages] if own else [])


@pytest.mark.slow
@pytest.mark.parametrize("slug", studies())
def test_every_experiment_runs_and_writes_a_result_that_the_catalogue_reads(
    slug: str, lab: VqaLab, tmp_path: Path
) -> None:
    plan = find(slug, out=tmp_path)
    done = reproduce(replace(plan, design=plan.design.rehearsal()), lab=lambda: lab, cache=tmp_path / "cache")
    read = results.read(tmp_path / f"{slug}.json")
    assert read.verdict == done.verdict
    assert set(read.values["criteria"]) == {c.means for c in plan.design.criteria}
    assert list(read.rows())
    if plan.design.questions is None:
        assert read.values["metric"]
    else:
        assert all(len(row) == 5 for row in read.values["arms"].values())
