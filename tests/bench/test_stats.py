"""Intervals: known cases, and the cases in which a plain bootstrap misleads."""

import numpy as np
import pytest

from tokenry.bench.stats import paired_interval


def test_matches_the_normal_approximation_on_many_independent_differences() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], size=2000, p=[0.2, 0.7, 0.1])
    found = paired_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_same_seed_same_interval_other_seed_nearly() -> None:
    values = np.random.default_rng(1).normal(size=200)
    assert paired_interval(values) == paired_interval(values)
    assert paired_interval(values, seed=1) != paired_interval(values)
    assert paired_interval(values, seed=1).low == pytest.approx(paired_interval(values).low, abs=0.02)


def test_questions_about_one_picture_are_not_independent() -> None:
    """Copies of a question tell nothing new: the interval stays that of the pictures."""
    pictures = np.random.default_rng(2).choice([-1.0, 0.0], size=50, p=[0.3, 0.7])
    copied = np.repeat(pictures, 8)
    clustered = paired_interval(copied, np.repeat(np.arange(50), 8).tolist())
    alone = paired_interval(pictures)
    assert clustered.mean == pytest.approx(alone.mean)
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=1e-6)
    naive = paired_interval(copied)
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_no_difference_at_all_is_not_certainty() -> None:
    """0 events in 30: the exact binomial bound, not a width of zero."""
    found = paired_interval(np.zeros(30))
    assert found.mean == 0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found.low == -found.high


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        found = paired_interval(rng.choice([-1.0, 0.0, 1.0], size=120, p=[0.15, 0.75, 0.1]), resamples=500)
        hits += found.low <= -0.05 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_no_examples_give_no_number() -> None:
    assert np.isnan(paired_interval([]).mean)
