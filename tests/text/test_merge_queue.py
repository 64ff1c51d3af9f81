"""MergeQueue: the worked example, and equality with counting everything again after every merge."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.text.dynamic_tokenization.merge_queue import MergeQueue, naive_merges
from tokenry.tokens.errors import InputError

LOW = [[b" low", b"er"], [b" low", b"est"], [b" low", b"er"]]
TOKENS = st.lists(st.lists(st.sampled_from([b"a", b"b", b"ab", b"aa", b"c"]), max_size=14), max_size=5)


def parity(left: bytes, right: bytes) -> bool:
    """A rule that depends on both tokens and refuses about a third of the pairs."""
    return (3 * len(left) + 5 * len(right) + left[0] + right[-1]) % 3 != 0


@given(TOKENS, st.integers(0, 12), st.booleans())
def test_equals_the_naive_recount(batch: list[list[bytes]], merges: int, restricted: bool) -> None:
    rule = parity if restricted else (lambda left, right: True)
    queue = MergeQueue(batch, rule)
    chosen = queue.run(merges)
    rows, expected = naive_merges(batch, merges, rule)
    assert chosen == expected  # the same pairs in the same order: ties go to the pair met first
    assert queue.sequences == rows
    assert len(queue) == sum(map(len, rows))


@given(TOKENS)
def test_bytes_never_change_and_lengths_never_grow(batch: list[list[bytes]]) -> None:
    queue = MergeQueue(batch)
    lengths = [list(map(len, queue.sequences))]
    while queue.merge():
        lengths.append(list(map(len, queue.sequences)))
        assert [b"".join(row) for row in queue.sequences] == [b"".join(row) for row in batch]
    for before, after in pairwise(lengths):
        assert all(a >= b for a, b in zip(before, after, strict=True))
    assert all(length <= 1 for length in lengths[-1])


@given(TOKENS, st.integers(0, 8))
def test_origins_point_at_the_first_part(batch: list[list[bytes]], merges: int) -> None:
    queue = MergeQueue(batch)
    queue.run(merges)
    for row, tokens, origins in zip(batch, queue.sequences, queue.origins, strict=True):
        parts = zip(origins, [*origins, len(row)][1:], strict=True)
        assert tokens == [b"".join(row[start:end]) for start, end in parts]


def test_no_merges_is_the_identity() -> None:
    queue = MergeQueue(LOW)
    assert queue.run(0) == []
    assert queue.sequences == LOW


def test_the_worked_example() -> None:
    queue = MergeQueue(LOW)
    assert queue.merge() == (b" low", b"er")
    assert [len(row) for row in queue.sequences] == [1, 2, 1]
    assert queue.merge() == (b" low", b"est")
    assert [len(row) for row in queue.sequences] == [1, 1, 1]
    assert queue.merge() is None
    assert MergeQueue(LOW).run(50) == [(b" low", b"er"), (b" low", b"est")]


def test_equal_counts_go_to_the_pair_met_first() -> None:
    assert MergeQueue([[b"x", b"y", b"z"]]).merge() == (b"x", b"y")
    assert MergeQueue([[b"y", b"z"], [b"x", b"y"]]).merge() == (b"y", b"z")


def test_overlapping_occurrences_count_and_merge_from_the_left() -> None:
    queue = MergeQueue([[b"a", b"a", b"a"], [b"b", b"c"]])
    assert queue.merge() == (b"a", b"a")
    assert queue.sequences == [[b"aa", b"a"], [b"b", b"c"]]


def test_stops_at_a_length() -> None:
    queue = MergeQueue([[bytes([c]) for c in b"abcdefgh"]])
    queue.run(until=5)
    assert len(queue) == 5


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least one byte"):
        MergeQueue([[b"a", b""]])
    with pytest.raises(InputError, match="negative"):
        MergeQueue([[b"a"]]).run(-1)
