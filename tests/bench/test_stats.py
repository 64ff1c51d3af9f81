"""Intervals: exact cases, the laws that a bound has to obey on every small table, and coverage of the truth."""

import itertools

import numpy as np
import pytest

from tokenry.bench.stats import Interval, corrected, lower_bound, outcomes, paired_interval
from tokenry.tokens import InputError

TAILS = (0.025, 0.0025, 0.0005)


def lost(number: int, of: int) -> list[float]:
    return [-1.0] * number + [0.0] * (of - number)


# --- what is known ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("questions", [1, 5, 30, 100, 1000])
@pytest.mark.parametrize("tail", TAILS)
def test_no_difference_at_all_is_not_certainty(questions: int, tail: float) -> None:
    """0 events in n: the exact binomial bound 1 - tail^(1/n), to what the saddlepoint is good for; never inside it."""
    found = paired_interval([0.0] * questions, level=1 - 2 * tail)
    exact = 1 - tail ** (1 / questions)
    assert found.mean == 0
    assert found.high == -found.low
    assert exact <= found.high <= min(1, 1.01 * exact)


@pytest.mark.parametrize(
    ("number", "upper"),
    # Clopper and Pearson's 97.5 % upper bounds of a share, 1, 2, 5 and 20 of 100.
    [(1, 0.0544594), (2, 0.0703839), (5, 0.1128349), (20, 0.2918427)],
)
def test_losses_only_have_the_exact_binomial_bound(number: int, upper: float) -> None:
    assert paired_interval(lost(number, 100)).low == pytest.approx(-upper, rel=3e-3)


def test_against_the_exact_sign_test() -> None:
    """k wins without a loss beat zero where 2^-k is below the tail: 6 at 2.5 %, 9 at 0.25 %."""
    for tail, wins in ((0.025, 6), (0.0025, 9)):
        low = [paired_interval([1.0] * k + [0.0] * 60, level=1 - 2 * tail).low for k in (wins - 1, wins)]
        assert low[0] < 0 < low[1]


@pytest.mark.parametrize("tail", TAILS)
def test_the_quantile_is_that_of_drawn_weights(tail: float) -> None:
    """The saddlepoint against a million draws: pictures of unequal size with graded scores, and the one never seen."""
    total, size, count = (
        np.array([-1.0, 0.0, 1 / 3, 2.0]),
        np.array([1.0, 1.0, 2.0, 3.0]),
        np.array([3, 12, 4, 2]),
    )
    (bound,) = lower_bound(total[None], size, count[None].astype(float), tail)
    draw = np.random.default_rng(0)
    weights = np.stack([draw.gamma(n, size=1_000_000) for n in count], 1)
    unseen = draw.exponential(size=1_000_000) * (count @ size**2) / (count @ size)
    below = np.mean((weights @ total - unseen) / (weights @ size + unseen) < bound)
    assert below == pytest.approx(tail, rel=0.04 + 3 / np.sqrt(1e6 * tail))


def test_many_differences_have_the_cluster_robust_normal_interval() -> None:
    draw = np.random.default_rng(0)
    values, pictures = draw.choice([-1.0, 0.0, 1.0], size=20_000, p=[0.2, 0.7, 0.1]), np.arange(20_000) // 2
    found = paired_interval(values, pictures.tolist())
    half = 1.96 * (np.bincount(pictures, values) - 2 * values.mean()).std() / 2 / np.sqrt(10_000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03 * half)


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("questions", [1, 2, 3, 8, 30])
def test_a_loss_more_never_raises_a_bound(questions: int, tail: float) -> None:
    """Every table of losses, ties and gains, against every table with one outcome worse."""
    tables = [(a, b) for a in range(questions + 1) for b in range(questions + 1 - a)]
    counts = np.array([(a, questions - a - b, b) for a, b in tables], dtype=float)
    bounds = lower_bound(np.array([[-1.0, 0.0, 1.0]]), np.ones(3), counts, tail)
    low = dict(zip(tables, bounds.tolist(), strict=True))
    for (losses, gains), bound in low.items():
        for worse in ((losses + 1, gains), (losses, gains - 1), (losses + 1, gains - 1)):
            assert low.get(worse, -1.0) <= bound + 1e-9, f"{worse} of {questions} is above {losses, gains}"


@pytest.mark.parametrize("sizes", [(2, 2), (1, 3), (1, 1, 3)])
def test_a_loss_more_never_raises_a_bound_wherever_it_falls(sizes: tuple[int, ...]) -> None:
    """The same with several questions about a picture: 0 lost is not below 1 lost."""
    pictures = np.repeat(range(len(sizes)), sizes).tolist()
    found = {
        values: paired_interval(values, pictures)
        for values in itertools.product((-1.0, 0.0, 1.0), repeat=len(pictures))
    }
    for values, interval in found.items():
        for i in (i for i, value in enumerate(values) if value > -1):
            worse = found[(*values[:i], values[i] - 1, *values[i + 1 :])]
            assert worse.low <= interval.low + 1e-9
            assert worse.high <= interval.high + 1e-9


def test_bounds_move_evenly_from_no_loss_to_many() -> None:
    """No jump at zero: each loss of 100 lowers the bound by between one and two points (1 lost was safer than 0)."""
    low = [paired_interval(lost(number, 100)).low for number in range(20)]
    steps = -np.diff(low)
    assert steps.max() < 0.02
    assert steps.min() > 0.01


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_gains_mirror_losses_and_the_mean_lies_between(level: float) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 40)
    found, mirrored = paired_interval(values, level=level), paired_interval(-values, level=level)
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-8)
    assert found.low < found.mean < found.high


def test_a_higher_level_is_a_wider_interval() -> None:
    values = lost(3, 50)
    found = [paired_interval(values, level=level) for level in (0.8, 0.95, 0.995, 0.999)]
    assert sorted(found, key=lambda i: -i.low) == found
    assert sorted(found, key=lambda i: i.high) == found


def test_questions_about_one_picture_are_not_independent() -> None:
    """Copies of a question tell nothing new: the interval stays that of the pictures."""
    pictures = np.random.default_rng(2).choice([-1.0, 0.0], size=50, p=[0.3, 0.7])
    copied = np.repeat(pictures, 8)
    clustered = paired_interval(copied, np.repeat(np.arange(50), 8).tolist())
    alone = paired_interval(pictures)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high), abs=1e-8)
    naive = paired_interval(copied)
    assert naive.high - naive.low < 0.5 * (clustered.high - clustered.low)


def test_neither_order_nor_names_of_pictures_matter() -> None:
    draw = np.random.default_rng(3)
    values, pictures = draw.choice([-1.0, -1 / 3, 0.0, 2 / 3], 60), draw.integers(0, 20, 60)
    order = draw.permutation(60)
    found = paired_interval(values, pictures.tolist())
    again = paired_interval(values[order], [f"picture {p}" for p in pictures[order]])
    assert (found.mean, found.low, found.high) == pytest.approx((again.mean, again.low, again.high), abs=1e-9)


def test_everything_lost_and_everything_gained() -> None:
    assert paired_interval([-1.0] * 8).low == -1
    assert paired_interval([-1.0] * 8, [0] * 8).high <= 1
    assert paired_interval([1.0] * 8).high == 1
    assert paired_interval([1.0] * 8).low < 0.3, "8 of 8 won proves little"


def test_scores_have_bounds_of_their_own() -> None:
    found = paired_interval([1.0] * 30, bounds=(0, 1))
    assert found.high == 1
    assert found.low == pytest.approx(0.025 ** (1 / 30), rel=3e-3), "Clopper and Pearson's for 30 of 30"


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_the_lower_bound_is_above_the_truth_no_more_often_than_it_says(together: bool) -> None:
    """3.5 points lost (5.5 to 2.0) on 100 questions, two a picture; more cells: benchmarks/intervals.py."""
    draw = np.random.default_rng(4)
    pairs = draw.choice([-1.0, 0.0, 1.0], (8000, 50, 2), p=[0.055, 0.925, 0.02])
    total = pairs[..., :1].sum(-1) * 2 if together else pairs.sum(-1)
    kinds = np.arange(-2.0, 3.0)
    count = (total[..., None] == kinds).sum(1).astype(float)
    low = lower_bound(kinds[None], np.full(5, 2.0), count, 0.025)
    assert np.mean(low > -0.035) <= 0.025 + 3 * np.sqrt(0.025 / 8000)
    assert np.mean(total.sum(1) / 100 - low) < 0.14, "and it says something"


def test_the_worst_case_known_is_near_the_criterion() -> None:
    """Only pictures with the most questions are lost, and those wholly: the unseen picture is smaller than they are."""
    draw = np.random.default_rng(5)
    size = draw.choice([1.0, 2.0, 3.0, 8.0], (4000, 100), p=[3 / 6, 1 / 6, 1 / 6, 1 / 6])
    lost = (size == 8) & (draw.random(size.shape) < 0.2)
    kinds = [(0.0, 1.0), (0.0, 2.0), (0.0, 3.0), (0.0, 8.0), (-8.0, 8.0)]
    total, sizes = np.array(kinds).T
    count = np.stack([((size == s) & (lost == (t < 0))).sum(1) for t, s in kinds], 1).astype(float)
    low = lower_bound(total[None], sizes, count, 0.025)
    assert 0.025 < np.mean(low > -(8 * 0.2) / (3 + 2 + 3 + 8)) < 0.045


# --- families, counts, refusals ---------------------------------------------------------------------------------------


def test_corrected_levels_are_bonferronis() -> None:
    assert corrected(0.95, 1) == pytest.approx(0.95)
    assert corrected(0.95, 50) == pytest.approx(0.999)
    with pytest.raises(InputError, match="at least one comparison, got 0"):
        corrected(0.95, 0)


def test_wins_and_losses_are_counted() -> None:
    found = outcomes([-1.0, -1 / 3, 0.0, 1e-9, 1.0])
    assert (found.gained, found.lost, found.same) == (1, 2, 2)


def test_no_examples_give_no_number() -> None:
    found = paired_interval([])
    assert np.isnan([found.mean, found.low, found.high]).all()


@pytest.mark.parametrize("wrong", [-1.5, 2.0, float("nan"), float("inf")])
def test_what_is_no_difference_of_scores_is_refused(wrong: float) -> None:
    with pytest.raises(InputError, match=r"from -1 to 1 was given"):
        paired_interval([0.0, wrong])


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0, 95])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(InputError, match="level of an interval"):
        paired_interval([0.0, -1.0], level=level)


def test_float32_scores_may_be_off_by_their_rounding() -> None:
    assert paired_interval([-1 - 1e-7, 0.0]).low == paired_interval([-1.0, 0.0]).low
    assert isinstance(paired_interval(np.float32([0.1, 0.2])), Interval)
