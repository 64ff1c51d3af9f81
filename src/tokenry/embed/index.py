"""A vector index: exact search by cosine among vectors that come and go, kept as safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tokenry.text.knn import KnnIndex
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

_FILE: Final = "index.safetensors"


@dataclass(frozen=True)
class Hits:
    """What a search found, best first.

    Attributes:
        scores: cosines.
        ids: of the vectors.
    """

    scores: Float[np.ndarray, "queries n"]
    ids: Int[np.ndarray, "queries n"]


class VectorIndex:
    """Vectors by id, searched exactly by cosine (`tokenry.text.knn.KnnIndex` over vectors of length 1).

    Vectors are brought to length 1 on the way in, queries too. Nothing is approximate: a million vectors of 384 numbers
    take 1.5 GB and about half a second a query on one core.

    Args:
        width: length of the vectors.

    Raises:
        InputError: a width below 1.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise InputError(f"Vectors need a width of at least 1, got {width}")
        self.width = width
        self._vectors = np.empty((0, width), np.float32)
        self._ids = np.empty(0, np.int64)
        self._next = 0
        self._index: KnnIndex | None = None  # of the vectors as they are; made when it is asked

    def __len__(self) -> int:
        return len(self._ids)

    def add(
        self, vectors: Float[np.ndarray, "n width"], ids: Int[np.ndarray, " ids"] | None = None
    ) -> Int[np.ndarray, " ids"]:
        """Add vectors.

        Args:
            vectors: finite, not zero.
            ids: theirs, none of them taken; by default they are counted on from the largest so far.

        Returns:
            Their ids.

        Raises:
            InputError: a vector has another width or no direction, or an id is negative, taken or twice there.
        """
        unit = self._unit(vectors)
        if ids is None:
            ids = np.arange(self._next, self._next + len(unit))
        wanted = [int(i) for i in ids]
        if len(wanted) != len(unit):
            raise InputError(f"{len(unit)} vectors need as many ids, got {len(wanted)}")
        taken = set(self._ids.tolist())
        clash = sorted(i for i in wanted if i < 0 or i in taken)
        if clash or len(set(wanted)) < len(wanted):
            raise InputError(
                f"Ids must be new, not negative and each used once; of these {len(wanted)}, "
                f"{clash[0] if clash else 'one'} is not: remove the old vector first, or leave ids out."
            )
        new = np.asarray(wanted, np.int64)
        self._hold(np.concatenate([self._vectors, unit]), np.concatenate([self._ids, new]))
        self._next = max([self._next - 1, *wanted]) + 1
        return new

    def remove(self, ids: Int[np.ndarray, " n"]) -> None:
        """Remove vectors.

        Raises:
            InputError: an id is not there; nothing is removed then.
        """
        gone = {int(i) for i in ids}
        if missing := sorted(gone - set(self._ids.tolist())):
            raise InputError(f"There is no vector with id {missing[0]} to remove.")
        kept = ~np.isin(self._ids, sorted(gone))
        self._hold(self._vectors[kept], self._ids[kept])

    def search(self, queries: Float[np.ndarray, "queries width"], n: int) -> Hits:
        """Find the nearest vectors, those that came first before others as near; all where there are fewer than n.

        Raises:
            InputError: the index is empty, n is below 1, or a query has another width or no direction.
        """
        if n < 1 or not len(self):
            raise InputError(
                f"Searching for {n} vectors in an index of {len(self)}: both must be at least 1."
            )
        unit = torch.from_numpy(self._unit(queries))
        if self._index is None:
            self._index = KnnIndex(torch.from_numpy(self._vectors), metric="dot")
        found = self._index.search(unit, min(n, len(self)))
        return Hits(found.scores.numpy(), self._ids[found.ids.numpy()])

    def save(self, folder: str | Path) -> None:
        """Write ids and vectors as safetensors; a folder that exists is replaced when all is written.

        Raises:
            InputError: it cannot be written.
        """
        with whole_folder(Path(folder)) as scratch:
            save_file({"ids": self._ids, "vectors": self._vectors}, scratch / _FILE)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: it is not an index, or damaged.
        """
        path = Path(folder) / _FILE
        try:
            found = load_file(path)
            ids, vectors = found["ids"], found["vectors"]
            index = cls(vectors.shape[1])
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            raise InputError(
                f"{path} is not a saved index ({type(error).__name__}: {error}); make it again."
            ) from error
        if len(ids):
            index.add(vectors, ids)
        return index

    def _hold(self, vectors: Float[np.ndarray, "n width"], ids: Int[np.ndarray, " n"]) -> None:
        self._vectors, self._ids, self._index = vectors, ids, None

    def _unit(self, vectors: np.ndarray) -> Float[np.ndarray, "n width"]:
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise InputError(
                f"This index holds vectors of {self.width} numbers; got an array of shape {vectors.shape}. "
                "Another encoder needs another index."
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise InputError("A vector is zero, infinite or not a number: it has no direction to search by.")
        return np.ascontiguousarray(vectors / norms, np.float32)
