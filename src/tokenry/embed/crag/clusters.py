"""k-means over vectors of length 1 (scikit-learn), with as many clusters as there is something to tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Int

from tokenry.tokens.errors import InputError
from tokenry.tokens.extras import optional

SILHOUETTE_K: Final = range(2, 9)
_DECIMALS: Final = 5  # vectors that agree to so many are one: batches of an encoder differ in the seventh


@dataclass(frozen=True)
class Clusters:
    """A division of vectors.

    Attributes:
        labels: of each vector, 0 to k-1; no cluster is empty.
        centroids: means of the clusters; not of length 1.
    """

    labels: Int[np.ndarray, " n"]
    centroids: Float[np.ndarray, "k width"]

    @property
    def k(self) -> int:
        """How many there are."""
        return len(self.centroids)


def k_means(
    vectors: Float[np.ndarray, "n width"],
    k: int,
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Clusters:
    """Divide vectors into ``min(k, distinct vectors)`` clusters: k-means++, best of 10 starts.

    Args:
        vectors: at least one.
        k: at most so many clusters.
        weights: how often each counts; once by default.
        seed: of the starts.

    Raises:
        InputError: there are no vectors, or k is below 1.
        UnsupportedError: scikit-learn is not installed.
    """
    if k < 1 or not len(vectors):
        raise InputError(f"{len(vectors)} vectors cannot be divided into {k} clusters.")
    _, place = np.unique(np.round(vectors, _DECIMALS), axis=0, return_inverse=True)
    distinct = int(place.max()) + 1
    if k == 1 or distinct <= k:  # nothing to search for
        labels = np.zeros(len(vectors), np.int64) if k == 1 else place.reshape(-1)
    else:
        model = _sklearn("cluster").KMeans(k, init="k-means++", n_init=10, random_state=seed)
        found = model.fit(vectors, sample_weight=weights).labels_
        labels = np.unique(found, return_inverse=True)[1].reshape(
            -1
        )  # closes the gap an empty one would leave
    counted = np.ones(len(vectors), np.float32) if weights is None else weights
    centroids = [
        np.average(vectors[labels == c], axis=0, weights=counted[labels == c])
        for c in range(labels.max() + 1)
    ]
    return Clusters(labels.astype(np.int64), np.stack(centroids).astype(np.float32))


def k_by_silhouette(
    vectors: Float[np.ndarray, "n width"], *, weights: Float[np.ndarray, " n"] | None = None, seed: int = 0
) -> int:
    """The number of clusters of 2 to 8 whose mean silhouette is largest; 1 for fewer than three distinct vectors.

    Args:
        vectors: at least one.
        weights: how often each counts in the clustering; in the silhouette each counts once.
        seed: of k-means.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    metrics = _sklearn("metrics")
    best, best_k = -np.inf, 1
    for k in SILHOUETTE_K:
        found = k_means(vectors, k, weights=weights, seed=seed)
        if found.k < k or found.k >= len(vectors):
            break
        score = metrics.silhouette_score(vectors, found.labels)
        if score > best:
            best, best_k = score, k
    return best_k


def _sklearn(part: str) -> Any:
    return optional(f"sklearn.{part}", package="scikit-learn", extra="retrieval", purpose="Clustering")
