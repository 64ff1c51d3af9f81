"""Nearest neighbours among many vectors: exactly, or in a few cells of a k-means partition."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError

_BLOCK = 4096  # vectors compared with all queries, or queries with all centres, at a time
_TRAINING_ROWS = 64  # vectors a cell that k-means looks at, at most


@dataclass(frozen=True)
class Neighbours:
    """The best matches of every query, best first.

    Attributes:
        ids: rows of the index; -1 where the cells that were looked at hold fewer than k vectors.
        scores: cosine similarities or inner products; -inf where there is no match.
        products: inner products that the search computed, centres included: its cost.
    """

    ids: Int[Tensor, "queries k"]
    scores: Float[Tensor, "queries k"]
    products: int


class KnnIndex:
    """Rows to be searched by cosine or inner product.

    Without cells every search is exact: a blocked matrix product and a running top-k. With cells the rows are parted
    by spherical k-means ("IVF-flat"), and a search looks at the rows of the `nprobe` cells whose centres are nearest to
    the query; with all cells probed it is exact again.

    Args:
        rows: vectors to search among; kept as they are.
        metric: "cosine" (rows and queries are scaled to unit length) or "dot".
        cells: number of k-means cells; 0 searches exactly. About the square root of the number of rows is usual.
        seed: of the first centres.
        iterations: rounds of k-means.

    Raises:
        InputError: no rows, rows that are not finite, more cells than rows, an unknown metric.
    """

    def __init__(
        self,
        rows: Float[Tensor, "n d"],
        *,
        metric: str = "cosine",
        cells: int = 0,
        seed: int = 0,
        iterations: int = 8,
    ) -> None:
        if metric not in ("cosine", "dot"):
            raise InputError(f'Metric must be "cosine" or "dot", got {metric!r}')
        if not len(rows) or not torch.isfinite(rows).all():
            raise InputError(
                f"An index needs finite rows, got {len(rows)} rows with NaN or infinity among them."
            )
        if not 0 <= cells <= len(rows):
            raise InputError(f"Cells must lie between 0 and the number of rows, {len(rows)}; got {cells}")
        self.metric, self.cells = metric, cells
        self._rows = self._prepared(rows)
        if cells:
            self._partition(seed, iterations)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Float[Tensor, "queries d"], k: int, *, nprobe: int | None = None) -> Neighbours:
        """The k rows most similar to each query; equal scores go to the lower row.

        Args:
            queries: vectors of the width of the rows.
            k: matches per query, at most the number of rows.
            nprobe: cells to look at; all by default. Without cells it must not be given.
        """
        if not 1 <= k <= len(self):
            raise InputError(f"`k` must lie between 1 and the number of rows, {len(self)}; got {k}")
        queries = self._prepared(queries)
        if self.cells and nprobe is not None and nprobe < self.cells:
            if nprobe < 1:
                raise InputError(f"`nprobe` must be at least 1, got {nprobe}")
            return self._probe(queries, k, nprobe)
        if nprobe is not None and not self.cells:
            raise InputError("`nprobe` means nothing in an index without cells; build it with cells=...")
        return self._exact(queries, k)

    def _prepared(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        x = x.detach().float()
        return F.normalize(x, dim=-1) if self.metric == "cosine" else x

    def _exact(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        scores = queries.new_full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), -1, device=queries.device)
        for start in range(0, len(self), _BLOCK):
            block = queries @ self._rows[start : start + _BLOCK].T
            at = torch.arange(start, start + block.shape[1], device=ids.device).expand_as(block)
            scores, ids = _best(torch.cat([scores, block], 1), torch.cat([ids, at], 1), k)
        return Neighbours(ids, scores, len(queries) * len(self))

    def _probe(self, queries: Float[Tensor, "q d"], k: int, nprobe: int) -> Neighbours:
        scores = queries.new_full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), -1, device=queries.device)
        chosen = (queries @ self._centres.T).topk(nprobe, 1).indices
        products = len(queries) * self.cells
        for query in range(len(queries)):
            cells = chosen[query]
            candidates = torch.cat(
                [self._members[self._starts[c] : self._starts[c + 1]] for c in cells.tolist()]
            )
            found = self._rows[candidates] @ queries[query]
            products += len(candidates)
            best, at = _best(found[None], candidates[None], min(k, len(candidates)))
            scores[query, : best.shape[1]], ids[query, : best.shape[1]] = best[0], at[0]
        return Neighbours(ids, scores, products)

    def _partition(self, seed: int, iterations: int) -> None:
        """Spherical k-means on a sample of the rows, then every row into the cell of its nearest centre.

        Cells are by direction for either metric: what a query's inner products are large with is, short of the rows'
        lengths, what points the same way.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        unit = F.normalize(self._rows, dim=-1)
        sample = unit[order[: _TRAINING_ROWS * self.cells].to(unit.device)]
        centres = sample[: self.cells].clone()
        for _ in range(iterations):
            cell = _nearest(sample, centres)
            total = torch.zeros_like(centres).index_add_(0, cell, sample)
            filled = total.norm(dim=1) > 0
            # A centre that nothing is nearest to stays where it is.
            centres = torch.where(filled[:, None], F.normalize(total, dim=1), centres)
        cell = _nearest(unit, centres)
        self._centres = centres
        self._members = cell.argsort(stable=True)
        counts = torch.bincount(cell, minlength=self.cells)
        self._starts: list[int] = [0, *counts.cumsum(0).tolist()]


def _nearest(x: Float[Tensor, "n d"], centres: Float[Tensor, "c d"]) -> Int[Tensor, " n"]:
    return torch.cat([(block @ centres.T).argmax(1) for block in x.split(_BLOCK)])


def _best(
    scores: Float[Tensor, "q n"], ids: Int[Tensor, "q n"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """The k largest scores with their ids; of equal scores the lower id."""
    if scores.shape[1] > 4 * k:  # sorting all of a block to order its ties would cost more than the product
        edge = scores.topk(k, 1).values[:, -1:]
        surplus = int((scores >= edge).sum(1).max())
        scores, at = scores.topk(surplus, 1)
        ids = ids.gather(1, at)
    by_id = ids.argsort(dim=1, stable=True)
    scores, ids = scores.gather(1, by_id), ids.gather(1, by_id)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores.gather(1, order), ids.gather(1, order)
