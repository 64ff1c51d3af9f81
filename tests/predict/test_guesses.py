"""Guesses become a tree, the likeliest first; records say how likely; sizes follow from both."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.predict.lm.guesses import Guesses, TrackRecord
from tokenry.predict.lm.merged import Merged
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.sizing import Expected, Fixed
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError

LATENCY = {1: 1.0, 5: 1.05, 9: 1.1, 17: 1.4, 25: 1.8}


@st.composite
def several(draw: st.DrawFn) -> Guesses:
    guesses = Guesses(99)
    for _ in range(draw(st.integers(0, 15))):
        parent = draw(st.integers(0, len(guesses) - 1))
        guesses.add(parent, draw(st.integers(0, 5)), draw(st.floats(0.01, 0.95)))
    return guesses


def paths(draft: Draft) -> dict[tuple[int, ...], float]:
    assert draft.chance is not None
    return {
        tuple(draft.tokens[draft.tree.path(node)[1:]].tolist()): draft.chance[node]
        for node in range(draft.tree.n)
    }


@given(guesses=several(), limit=st.integers(0, 20))
def test_a_draft_holds_the_likeliest_guesses_in_order(guesses: Guesses, limit: int) -> None:
    whole, part = guesses.draft(100), guesses.draft(limit)
    assert whole.chance is not None
    assert part.chance is not None
    assert whole.tree.n == len(guesses)
    assert part.tree.n == min(limit + 1, len(guesses))
    assert all(a >= b for a, b in pairwise(part.chance))
    np.testing.assert_array_equal(part.chance, whole.chance[: part.tree.n])
    assert paths(part).items() <= paths(whole).items()
    assert paths(whole.first(limit)) == paths(part)


@given(one=several(), other=several())
def test_merging_keeps_every_guess_and_doubts_none_more(one: Guesses, other: Guesses) -> None:
    merged = paths(Guesses.merged([one, other]).draft(1000))
    first, second = paths(one.draft(1000)), paths(other.draft(1000))
    assert merged.keys() == first.keys() | second.keys()
    for path, chance in merged.items():
        assert chance >= max(first.get(path, 0), second.get(path, 0)) - 1e-12


def test_what_two_guess_is_likelier_than_what_one_does() -> None:
    one, other = Guesses(0), Guesses(0)
    one.add(0, 7, 0.5)
    other.add(0, 7, 0.4)
    assert paths(Guesses.merged([one, other]).draft(1))[(7,)] == pytest.approx(1 - 0.5 * 0.6)


def test_a_record_learns_from_what_was_written_only() -> None:
    record = TrackRecord(np.full(4, 0.5), weight=2)
    guesses = Guesses(0)
    right = guesses.add(0, 1, 0.5, kind=0)
    guesses.add(0, 2, 0.5, kind=1)
    guesses.add(right, 3, 0.5, kind=2)
    guesses.add(2, 3, 0.5, kind=3)  # below the wrong one: nobody knows
    guesses.judge([1, 9], record)
    assert record.rates() == pytest.approx([2 / 3, 1 / 3, 1 / 3, 1 / 2])


def test_a_record_forgets() -> None:
    record = TrackRecord(np.array([0.5]), weight=2, memory=50)
    for _ in range(300):
        record.learn(0, True)
    assert record.rates()[0] > 0.95
    for _ in range(100):
        record.learn(0, False)
    assert record.rates()[0] < 0.25
    with pytest.raises(InputError, match="between 0 and 1"):
        TrackRecord(np.array([0.0]))


def draft(*chance: float) -> Draft:
    n = len(chance) + 1
    return Draft(DraftTree.chain(n - 1), np.zeros(n, np.int64), chance=np.array([1.0, *chance]))


def by_hand(chances: tuple[float, ...], texts: int = 1) -> int:
    """The size with the most tokens per unit of time, tried one by one."""
    sizing = Expected(LATENCY, margin=1.0)
    speed = [
        (1 + sum(chances[:n])) / float(sizing.time(np.array([texts * (n + 1.0)]))[0])
        for n in range(len(chances) + 1)
    ]
    return int(np.argmax(speed))


@given(chances=st.lists(st.floats(0, 1), max_size=30), texts=st.integers(1, 4))
def test_the_size_is_the_fastest_one(chances: list[float], texts: int) -> None:
    falling = tuple(sorted(chances, reverse=True))
    size = Expected(LATENCY, margin=1.0).choose([draft(*falling)] * texts)
    assert size == by_hand(falling, texts)


def test_guesses_that_repay_nothing_are_not_judged() -> None:
    sizing = Expected(LATENCY)
    assert sizing.choose([draft(0.001, 0.001)]) == 0
    assert sizing.speed_up == 1
    assert Expected(LATENCY).choose([draft(*[0.95] * 24)]) == 24


def test_times_between_and_beyond_the_measured_ones() -> None:
    sizing = Expected({1: 1.0, 3: 2.0, 5: 1.5})
    assert sizing.time(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).tolist() == [1, 1.5, 2, 2, 2]  # never falling
    assert Expected({1: 1.0, 3: 2.0}).time(np.array([5.0])).tolist() == [3]
    assert Expected({1: 1.0, 64: 3.0}).most(4) == 15


def test_latencies_are_ratios() -> None:
    with pytest.raises(InputError, match="which is 1"):
        Expected({1: 0.02, 8: 0.03})
    with pytest.raises(InputError, match="at least two"):
        Expected({1: 1.0})
    with pytest.raises(InputError, match="no fewer than 0"):
        Fixed(-1)


def test_prompt_lookup_prefers_the_longest_match() -> None:
    lookup = PromptLookup(length=2)
    text = [5, 6, 7, 1, 1, 7, 2, 2, 5, 6, 7]
    lookup.begin([text])
    found = paths(lookup.propose(0, text, 8))
    assert set(found) == {(), (1,), (1, 1), (2,), (2, 2)}  # behind "5 6 7", and behind the later "7" alone
    assert found[(1,)] > found[(2,)]
    assert set(paths(lookup.propose(0, text, 1))) == {(), (1,)}


def test_nothing_is_merged_of_nothing() -> None:
    with pytest.raises(InputError, match="at least one"):
        Merged(())
