"""LRUEmbeddingCache: rows equal those computed without it, whatever was asked before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenry.text.dynamic_tokenization.embedding_cache import LRUEmbeddingCache
from tokenry.tokens.errors import InputError


def compute(keys: list[bytes]) -> torch.Tensor:
    assert keys
    assert len(set(keys)) == len(keys)
    return torch.tensor([[float(key[0]), float(len(key))] for key in keys])


KEYS = st.lists(st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=6), max_size=12)


@given(KEYS, st.integers(0, 5))
def test_cached_rows_equal_computed_rows(calls: list[list[bytes]], capacity: int) -> None:
    cache = LRUEmbeddingCache(capacity)
    for keys in calls:
        expected = torch.tensor([[float(key[0]), float(len(key))] for key in keys])
        assert torch.equal(cache.rows(keys, compute), expected)
        assert len(cache) <= capacity


def test_the_longest_unused_goes_first() -> None:
    cache = LRUEmbeddingCache(2)
    for keys in ([b"a"], [b"b"], [b"a"], [b"c"]):
        cache.rows(keys, compute)
    assert b"a" in cache
    assert b"b" not in cache
    assert b"c" in cache
    assert (cache.hits, cache.misses) == (1, 3)


def test_rows_in_use_are_not_evicted_for_one_another() -> None:
    cache = LRUEmbeddingCache(2)
    cache.rows([b"a", b"b"], compute)
    out = cache.rows([b"c", b"a", b"d", b"b"], compute)
    assert out[:, 0].tolist() == [ord("c"), ord("a"), ord("d"), ord("b")]
    assert b"a" in cache
    assert b"b" in cache


def test_bad_input() -> None:
    with pytest.raises(InputError):
        LRUEmbeddingCache(-1)
    with pytest.raises(InputError):
        LRUEmbeddingCache(1).rows([], compute)
