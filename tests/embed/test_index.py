"""The vector index: exact cosine search, ids, saving, and errors."""

from pathlib import Path

import numpy as np
import pytest

from tokenry.embed.index import VectorIndex
from tokenry.tokens.errors import InputError


def vectors(n: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)


def filled(n: int = 20) -> VectorIndex:
    index = VectorIndex(8)
    index.add(vectors(n))
    return index


def test_search_is_by_cosine_and_exact() -> None:
    rows = vectors(20) * np.arange(1, 21, dtype=np.float32)[:, None]  # lengths must not count
    index = VectorIndex(8)
    assert index.add(rows).tolist() == list(range(20))
    queries = vectors(3) + 0.1
    hits = index.search(queries, 4)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = queries @ unit.T / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_array_equal(hits.ids, np.argsort(-cosine)[:, :4])
    np.testing.assert_allclose(hits.scores, -np.sort(-cosine)[:, :4], atol=1e-6)


def test_fewer_vectors_than_asked_for_are_all_returned() -> None:
    assert sorted(filled(3).search(vectors(1), 10).ids[0].tolist()) == [0, 1, 2]


def test_ids_are_the_callers_and_vectors_can_go() -> None:
    index = VectorIndex(8)
    index.add(vectors(3), np.array([7, 2, 40]))
    assert index.search(vectors(3)[1:2], 1).ids.tolist() == [[2]]
    index.remove(np.array([2]))
    assert len(index) == 2
    assert 2 not in index.search(vectors(3)[1:2], 3).ids
    assert index.add(vectors(1)).tolist() == [41]
    index.remove(np.array([41]))
    # an id that is gone does not come back as another vector
    assert index.add(vectors(2)).tolist() == [42, 43]


def test_saved_and_loaded_it_finds_the_same(tmp_path: Path) -> None:
    index = VectorIndex(8)
    index.add(vectors(5), np.array([7, 2, 40, 3, 4]))
    index.remove(np.array([7]))
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")  # replaced
    again = VectorIndex.load(tmp_path / "index")
    query = vectors(2) + 0.5
    np.testing.assert_array_equal(again.search(query, 4).ids, index.search(query, 4).ids)
    np.testing.assert_allclose(again.search(query, 4).scores, index.search(query, 4).scores, atol=1e-6)
    VectorIndex(3).save(tmp_path / "empty")
    assert len(VectorIndex.load(tmp_path / "empty")) == 0


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a saved index"):
        VectorIndex.load(tmp_path)
    (tmp_path / "index.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match="not a saved index"):
        VectorIndex.load(tmp_path)


def test_bad_vectors_and_ids() -> None:
    index = filled(3)
    with pytest.raises(InputError, match=r"8 numbers; got an array of shape \(1, 4\)"):
        index.add(np.ones((1, 4), np.float32))
    with pytest.raises(InputError, match="no direction"):
        index.add(np.zeros((1, 8), np.float32))
    with pytest.raises(InputError, match="no direction"):
        index.search(np.full((1, 8), np.nan, np.float32), 1)
    with pytest.raises(InputError, match="2 is not"):
        index.add(vectors(1), np.array([2]))
    with pytest.raises(InputError, match="one is not"):
        index.add(vectors(2), np.array([8, 8]))
    with pytest.raises(InputError, match="as many ids"):
        index.add(vectors(2), np.array([8]))
    with pytest.raises(InputError, match="no vector with id 9"):
        index.remove(np.array([1, 9]))
    assert len(index) == 3  # none of it changed anything
    with pytest.raises(InputError, match="must be at least 1"):
        index.search(vectors(1), 0)
    with pytest.raises(InputError, match="must be at least 1"):
        VectorIndex(8).search(vectors(1), 1)
    with pytest.raises(InputError, match="width"):
        VectorIndex(0)


def test_of_vectors_as_near_those_that_came_first_come_first() -> None:
    index = VectorIndex(2)
    index.add(np.ones((3, 2), np.float32), np.array([9, 4, 6]))
    assert index.search(np.ones((1, 2), np.float32), 2).ids.tolist() == [[9, 4]]
