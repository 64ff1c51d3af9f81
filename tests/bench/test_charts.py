"""What charts share: points set apart as little as that takes, round ticks, colours with contrast."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.bench.charts.scales import PALETTE, apart, ticks

PLACES = st.lists(st.integers(0, 400).map(float), min_size=1, max_size=12)


@given(places=PLACES, gap=st.sampled_from([1.0, 7.0, 30.0]))
def test_points_keep_their_order_and_a_gap(places: list[float], gap: float) -> None:
    moved = apart(places, gap)
    order = sorted(range(len(places)), key=lambda i: places[i])
    after = [moved[i] for i in order]
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(after))
    assert np.mean(moved) == pytest.approx(np.mean(places))


@given(places=PLACES)
def test_a_point_that_hides_nothing_stands_at_its_place(places: list[float]) -> None:
    moved, gap = apart(places, 7.0), 7.0
    for i, place in enumerate(places):
        others = [*places[:i], *places[i + 1 :]]
        if all(abs(place - other) > gap * len(places) for other in others):
            assert moved[i] == place


@given(places=PLACES, nudges=st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_points_are_moved_as_little_as_that_takes(places: list[float], nudges: list[float]) -> None:
    """No other placing of the same order and gap is nearer to the true places (squares)."""
    gap = 7.0
    moved = apart(places, gap)
    order = sorted(range(len(places)), key=lambda i: places[i])
    other, last = [0.0] * len(places), -np.inf
    for rank, i in enumerate(order):
        last = other[i] = max(moved[i] + nudges[rank], last + gap)
    assert _squares(moved, places) <= _squares(other, places) + 1e-6


def _squares(moved: list[float], places: list[float]) -> float:
    return float(np.square(np.subtract(moved, places)).sum())


def test_equal_points_stand_side_by_side_in_the_order_given() -> None:
    assert apart([10.0, 10.0, 10.0, 50.0], 8) == [2.0, 10.0, 18.0, 50.0]
    assert apart([], 8) == []


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.47, 0.93, 5, [0.5, 0.6, 0.7, 0.8, 0.9]),
        (0, 153, 3, [0, 100]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, expected: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(expected)


def test_every_colour_is_seen_on_light_and_on_dark() -> None:
    for colour in PALETTE:
        for page in ("#ffffff", "#10151c"):
            assert _contrast(colour, page) >= 3, (colour, page)


def _contrast(a: str, b: str) -> float:
    """WCAG's contrast ratio."""
    light, dark = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
