"""Agreement of rankings: Kendall's tau-b against its definition and scipy, and the committed table against the beds."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from benchmarks.testbeds import agreement
from tokenry.bench.testbeds import rank_agreement
from tokenry.bench.testbeds.ranks import kendall_tau

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("seed", range(20))
def test_tau_is_that_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 6, (2, 9)).tolist()
    pairs = list(combinations(range(9), 2))
    same = sum((x[i] - x[j]) * (y[i] - y[j]) > 0 for i, j in pairs)
    other = sum((x[i] - x[j]) * (y[i] - y[j]) < 0 for i, j in pairs)
    untied = [sum(v[i] != v[j] for i, j in pairs) for v in (x, y)]
    assert kendall_tau(x, y) == pytest.approx((same - other) / math.sqrt(untied[0] * untied[1]))
    assert kendall_tau(x, y) == pytest.approx(kendalltau(x, y).statistic)


def test_where_one_orders_nothing_there_is_no_tau() -> None:
    assert kendall_tau([1, 2, 3], [1, 2, 3]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert math.isnan(kendall_tau([1, 1], [1, 2]))


def test_beds_are_compared_on_what_both_have_measured() -> None:
    found = rank_agreement(
        {
            "a": {"25%": {"x": 3, "y": 2, "z": 1}, "50%": {"x": 1, "y": 2}},
            "b": {"25%": {"x": 30, "y": 20, "other": 90}, "10%": {"x": 1, "y": 2}},
            "c": {"25%": {"x": 1, "y": 2, "z": 3}, "50%": {"x": 1}},
        }
    )
    told = [(rank.beds, rank.budget, rank.tau, rank.methods) for rank in found]
    assert told == [
        (("a", "b"), "25%", 1, 2),
        (("a", "c"), "25%", -1, 3),
        (("b", "c"), "25%", -1, 2),
    ]


def test_the_committed_agreement_is_that_of_the_committed_beds() -> None:
    path = RESULTS / "testbeds.json"
    if not any(RESULTS.glob("testbed-*.json")):
        assert not path.exists()
        return
    assert json.loads(path.read_text(encoding="utf-8")) == agreement(RESULTS)
