"""KnnIndex: exact search against sorting everything, cells against exact search, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tokenry.text.knn import KnnIndex
from tokenry.tokens.errors import InputError


def vectors(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_exact_search_equals_sorting_everything(metric: str) -> None:
    rows, queries = vectors(9001), vectors(7, seed=1)
    found = KnnIndex(rows, metric=metric).search(queries, 12)
    if metric == "cosine":
        rows, queries = F.normalize(rows, dim=1), F.normalize(queries, dim=1)
    scores, ids = (queries @ rows.T).sort(1, descending=True)
    assert torch.equal(found.ids, ids[:, :12])
    torch.testing.assert_close(found.scores, scores[:, :12])
    assert found.products == 7 * 9001


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_all_cells_probed_equals_exact_search(metric: str) -> None:
    rows, queries = vectors(3000), vectors(5, seed=1)
    exact = KnnIndex(rows, metric=metric).search(queries, 10)
    index = KnnIndex(rows, metric=metric, cells=40)
    for nprobe in (None, 40):
        found = index.search(queries, 10, nprobe=nprobe)
        assert torch.equal(found.ids, exact.ids)
        torch.testing.assert_close(found.scores, exact.scores)
    # and probing really reaches every row: cells partition the rows
    nearly = index._probe(index._prepared(queries), 10, 40)
    assert torch.equal(nearly.ids, exact.ids)


def test_few_cells_cost_little_and_find_what_is_near() -> None:
    rows = vectors(20000)
    queries = rows[:200] + 0.1 * vectors(200, seed=2)
    index = KnnIndex(rows, cells=128)
    found = index.search(queries, 1, nprobe=8)
    assert found.products < 0.2 * 200 * 20000
    assert (found.ids[:, 0] == torch.arange(200)).float().mean() > 0.95
    more = index.search(queries, 1, nprobe=16)
    assert more.products > found.products


def test_equal_scores_go_to_the_lower_row() -> None:
    rows = torch.ones(9000, 4)
    assert KnnIndex(rows).search(torch.ones(1, 4), 3).ids.tolist() == [[0, 1, 2]]


def test_cells_that_hold_too_few_rows_leave_places_empty() -> None:
    rows = torch.eye(4)
    found = KnnIndex(rows, cells=4).search(rows[:1], 3, nprobe=1)
    assert found.ids.tolist() == [[0, -1, -1]]
    assert found.scores[0, 1] == -torch.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": torch.zeros(0, 3)}, "finite rows"),
        ({"rows": torch.full((2, 3), float("nan"))}, "finite rows"),
        ({"rows": torch.ones(2, 3), "cells": 3}, "Cells must lie"),
        ({"rows": torch.ones(2, 3), "metric": "euclid"}, "Metric"),
    ],
)
def test_bad_indexes_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KnnIndex(**arguments)


def test_bad_searches_are_refused() -> None:
    index = KnnIndex(torch.ones(5, 3))
    with pytest.raises(InputError, match="`k` must lie"):
        index.search(torch.ones(1, 3), 6)
    with pytest.raises(InputError, match="without cells"):
        index.search(torch.ones(1, 3), 2, nprobe=1)
