"""Is a difference more than luck? Paired intervals, nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with the bounds of its interval.

    Attributes:
        mean, low, high: in the unit of what was averaged.
    """

    mean: float
    low: float
    high: float


def paired_interval(
    difference: Float[np.ndarray, " n"] | Sequence[float],
    cluster: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a mean paired difference.

    What is resampled is the clusters: questions about one picture succeed and fail together, and treating them as
    independent would make every interval too narrow. Without `cluster` each difference stands alone.

    Where no difference is other than zero, every resample is zero too, and the bootstrap would claim certainty; the
    bounds are then those of the exact (Clopper-Pearson) interval for 0 events in as many trials as there are clusters,
    for scores between 0 and 1.

    Args:
        difference: score of the method minus score of the baseline, per example.
        cluster: what each example belongs to.
        resamples: bootstrap resamples.
        level: share of resamples inside the bounds.
        seed: seed of the resampling.

    Returns:
        The mean and its bounds; NaN throughout for no examples.
    """
    values = np.asarray(difference, dtype=np.float64)
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    numbers: dict[Hashable, int] = {}
    names = range(len(values)) if cluster is None else cluster
    member = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    clusters = len(numbers)
    tail = (1 - level) / 2
    if not values.any():
        bound = 1 - tail ** (1 / clusters)
        return Interval(0.0, -bound, bound)
    total = np.bincount(member, values, clusters)
    size = np.bincount(member, minlength=clusters).astype(np.float64)
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    means = (drawn @ total) / (drawn @ size)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
