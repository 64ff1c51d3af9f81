"""Is a difference more than luck? Paired intervals, what many comparisons do to them, and counts of wins and losses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from tokenry.tokens import InputError

LEVEL = 0.95
DIFFERENCES = (-1.0, 1.0)  # what one score in 0..1 minus another can be
_STEPS = 100  # bisection alone would be done after half of them
_CLOSE = 1e-9
_ROUNDING = 1e-6  # of scores that were computed in float32


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval.

    Attributes:
        mean, low, high: in the unit of what was averaged.
    """

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 where all of it is above zero, -1 where all of it is below, else 0."""
        return (self.low > 0) - (self.high < 0)


@dataclass(frozen=True)
class Outcomes:
    """The discordant and concordant pairs of a paired comparison.

    Attributes:
        gained, lost, same: how many examples scored higher, lower and alike.
    """

    gained: int
    lost: int
    same: int


def paired_interval(
    difference: Float[np.ndarray, " n"] | Sequence[float],
    cluster: Sequence[Hashable] | None = None,
    *,
    level: float = LEVEL,
    bounds: tuple[float, float] = DIFFERENCES,
) -> Interval:
    """Gaffke's confidence bounds of a mean paired difference, over clusters: one rule for 0/1, graded and clustered.

    Each picture gets a random weight, as in the Bayesian bootstrap, and so does one more picture, never seen, all of
    whose questions are lost; the lower bound is the `(1 - level) / 2` quantile of the weighted mean. The upper bound is
    the same with everything won. The picture never seen is why no loss in 100 questions does not mean no loss at all,
    and why one loss more can only lower the bounds. Where 0/1 scores are only lost, the lower bound is the exact one of
    Clopper and Pearson; on many questions the bounds tend to the mean -+ z cluster-robust standard errors.

    The clusters are what is weighted: questions about one picture succeed and fail together, and treating them as
    independent would make every interval too narrow. The picture never seen has as many questions as the picture of
    a random question, so that n questions without a loss are worth Kish's n^2 / sum(size^2): while few are lost, the
    data cannot tell how much the questions of a picture have in common. Without `cluster` each difference stands alone.

    Nothing is drawn by lot. The quantile is that of a weighted sum of exponential variables, which the saddlepoint
    approximation gives to some 3 % of the tail probability, on the safe side, however far out the tail.

    That the bounds fail no more often than they say is proven for two possible values and conjectured for all: no
    counterexample is known. That holds for pictures with as many questions each; the ratio of sums for others is an
    extension, strict only if the picture never seen were as large as the largest: where none but the largest are lost,
    and those wholly, a 2.5 % bound fails in up to 4 %. `docs/intervals.md` has the simulation after which this rule was
    chosen, beside Tango's score interval with a design effect, a cluster-robust t interval and bootstraps.

    Sources: Gaffke 2005, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative
    variable, Mathematical Methods of Statistics 14(4); Learned-Miller & Thomas 2019, arXiv 1905.06208; Phan, Thomas &
    Learned-Miller 2021, arXiv 2106.03163; Rubin 1981, doi 10.1214/aos/1176345338 (Bayesian bootstrap); Davison &
    Hinkley 1988, doi 10.1093/biomet/75.3.417 (saddlepoints in resampling); Miller 2024, arXiv 2411.00640 (questions in
    clusters).

    Args:
        difference: score of the method minus score of the baseline, per example.
        cluster: what each example belongs to.
        level: share of data sets whose interval has the true difference; half of the rest on either side. For claims
            about the best of several see `corrected`.
        bounds: the least and the greatest value that a difference can have; (0, 1) for scores themselves.

    Returns:
        The mean and its bounds; NaN throughout for no examples.

    Raises:
        InputError: a value outside the bounds (or no number), a level outside [0.5, 1).
    """
    if not 0.5 <= level < 1:
        raise InputError(f"The level of an interval is a share in [0.5, 1), got {level!r}.")
    values = np.asarray(difference, dtype=np.float64)
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    least, greatest = bounds
    if not (inside := (values >= least - _ROUNDING) & (values <= greatest + _ROUNDING)).all():
        wrong = values[~inside][0]
        raise InputError(f"An interval over values from {least:g} to {greatest:g} was given {wrong:g}.")
    values = values.clip(least, greatest)
    total, size, count = _kinds(values, cluster)
    ends = np.array([least, -greatest], dtype=np.float64)
    both = lower_bound(np.stack([total, -total]), size, count[None], (1 - level) / 2, ends)
    low, high = both * (1, -1)  # the upper bound is the lower one of what is lost
    return Interval(float(values.mean()), float(low), float(high))


def corrected(level: float, comparisons: int) -> float:
    """The Bonferroni-corrected level: intervals at it hold together, all of them, with probability `level`.

    Whoever names the best of `comparisons` arms, or what beats a baseline, has had that many chances to be lucky.

    Args:
        level: of the family of intervals.
        comparisons: arms times what each is compared with; those tried, not those shown.

    Raises:
        InputError: fewer than one comparison.
    """
    if comparisons < 1:
        raise InputError(f"A family of intervals has at least one comparison, got {comparisons!r}.")
    return 1 - (1 - level) / comparisons


def outcomes(difference: Float[np.ndarray, " n"] | Sequence[float]) -> Outcomes:
    """How many examples a method gained, lost and left alike.

    Args:
        difference: score of the method minus score of the baseline, per example.
    """
    values = np.asarray(difference, dtype=np.float64)
    gained, lost = int((values > _ROUNDING).sum()), int((values < -_ROUNDING).sum())
    return Outcomes(gained, lost, len(values) - gained - lost)


def lower_bound(
    total: Float[np.ndarray, "#data g"],
    size: Float[np.ndarray, " g"],
    count: Float[np.ndarray, "#data g"],
    tail: float,
    least: float | Float[np.ndarray, " #data"] = DIFFERENCES[0],
) -> Float[np.ndarray, " data"]:
    """Gaffke's lower confidence bound of a mean, for data sets that are told as counts of each kind of cluster.

    It is the `t` at which `sum of E_i (total_i - t size_i)`, over all clusters and the one never seen, is below zero
    with probability `tail`, with independent standard exponential E: the weighted mean is below t exactly then.

    Args:
        total: sum of the values in a cluster of each kind.
        size: its number of values.
        count: clusters of each kind; may be 0.
        tail: share of data sets whose bound may be above the true mean.
        least: the least value.
    """
    total, count = np.broadcast_arrays(total, count)
    unseen = (count * size**2).sum(-1) / (count * size).sum(-1)
    size = _before(unseen, size[None])
    total, count = _before(least * unseen, total), _before(np.ones_like(unseen), count)
    whole = (count * size).sum(-1)
    mean = (count * total).sum(-1) / whole
    excess = total - mean[..., None] * size
    variance = (count * excess**2).sum(-1) / whole**2
    z = NormalDist().inv_cdf(tail)
    low, high = np.zeros_like(mean) + least, mean
    bound = _inside(mean + z * np.sqrt(variance), low, high)
    close = _CLOSE * np.abs(least).max()
    with np.errstate(divide="ignore", invalid="ignore"):  # where every value is the least one
        multiplier = (mean - bound) / (variance * whole)
        for _ in range(_STEPS):
            excess = total - bound[..., None] * size
            multiplier = _multiplier(excess, count, multiplier)
            root, slope = _root(multiplier, excess, size, count)
            low, high = np.where(root < z, bound, low), np.where(root > z, bound, high)
            step = _inside(bound - (root - z) / slope, low, high)
            moved, bound = abs(step - bound), step
            if not (moved > close).any():
                break
    return np.where(mean - least > close, bound, least)


def _root(
    multiplier: Float[np.ndarray, " data"],
    excess: Float[np.ndarray, "data g"],
    size: Float[np.ndarray, "data g"],
    count: Float[np.ndarray, "data g"],
) -> tuple[Float[np.ndarray, " data"], Float[np.ndarray, " data"]]:
    """Barndorff-Nielsen's r*, the normal quantile of P(sum of E_i excess_i <= 0), and about its slope in the bound.

    r is the signed root of Owen's empirical likelihood ratio, whose Lagrange multiplier is the saddlepoint.
    """
    odds = _odds(multiplier, excess, count)
    r = -np.sqrt(-2 * (count * np.log(odds)).sum(-1))
    u = -multiplier * np.sqrt((count * (excess * odds) ** 2).sum(-1))
    return r + np.log(u / r) / r, -multiplier * (count * size * odds).sum(-1) / r


def _multiplier(
    excess: Float[np.ndarray, "data g"],
    count: Float[np.ndarray, "data g"],
    start: Float[np.ndarray, " data"],
) -> Float[np.ndarray, " data"]:
    """The positive x at which `sum of count excess / (1 + x excess)` is zero.

    The sum falls from a positive value to minus infinity where `1 + x min(excess)` is zero; times that factor it is
    nearly straight, which Newton's method likes.
    """
    worst = np.where(count > 0, excess, np.inf).min(-1)
    low, high = np.zeros_like(worst), -1 / worst
    x = _inside(start, low, high)
    for _ in range(_STEPS):
        odds = _odds(x, excess, count)
        part = excess * odds
        terms = count * part
        value, fall, room = terms.sum(-1), (terms * part).sum(-1), 1 + x * worst
        low, high = np.where(value > 0, x, low), np.where(value < 0, x, high)
        step = _inside(x - value * room / (value * worst - fall * room), low, high)
        moved, x = abs(step - x), step
        if not (moved > _CLOSE * x).any():
            break
    return x


def _odds(
    x: Float[np.ndarray, " data"], excess: Float[np.ndarray, "data g"], count: Float[np.ndarray, "data g"]
) -> Float[np.ndarray, "data g"]:
    """1 / (1 + x excess); 1 for kinds of clusters that a data set does not have."""
    return 1 / np.where(count > 0, 1 + x[..., None] * excess, 1.0)


def _inside(
    step: Float[np.ndarray, " data"], low: Float[np.ndarray, " data"], high: Float[np.ndarray, " data"]
) -> Float[np.ndarray, " data"]:
    """A step, or where it leaves its bracket the middle of that."""
    return np.where((step > low) & (step < high), step, (low + high) / 2)


def _before(
    first: Float[np.ndarray, " data"], rest: Float[np.ndarray, "#data g"]
) -> Float[np.ndarray, "data h"]:
    """One more kind of cluster, told first."""
    return np.concatenate([first[..., None], np.broadcast_to(rest, (*first.shape, rest.shape[-1]))], -1)


def _kinds(
    values: Float[np.ndarray, " n"], cluster: Sequence[Hashable] | None
) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
    """Sum and size of each kind of cluster, and how many there are: a thousand pictures come in a dozen kinds."""
    if cluster is None:
        total, size = values, np.ones_like(values)
    else:
        numbers: dict[Hashable, int] = {}
        member = np.array([numbers.setdefault(name, len(numbers)) for name in cluster])
        total = np.bincount(member, values)
        size = np.bincount(member).astype(np.float64)
    # Rounded, since 0.1 + 0.2 and 0.3 are of one kind; numpy sorts complex numbers by both parts, and fast.
    kinds, count = np.unique(np.round(total, 9) + 1j * size, return_counts=True)
    return kinds.real, kinds.imag, count.astype(np.float64)
