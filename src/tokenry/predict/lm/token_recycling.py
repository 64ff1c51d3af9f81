"""Token Recycling: the candidates that decoding throws away are the next drafts (arXiv 2408.08696)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError

_CHILDREN: Final = {
    "": 8, "0": 8, "1": 4, "2": 3, "3": 2, "4": 1, "5": 1, "6": 1, "7": 1,
    "00": 8, "01": 3, "02": 2, "03": 1, "04": 1, "05": 1, "06": 1, "07": 1, "10": 2, "11": 1, "20": 1, "30": 1,
    "40": 1, "50": 1,
    "000": 5, "001": 2, "002": 1, "003": 1, "004": 1, "010": 1, "020": 1, "100": 1, "200": 1, "300": 1,
    "0000": 3, "0001": 1, "0002": 1, "0010": 1, "0100": 1, "1000": 1,
    "00000": 2, "00010": 1,
}  # fmt: skip
"""The paper's tree: how many candidates follow each path of ranks."""


@cache
def template() -> DraftTree:
    """The tree of 80 guesses: 8, 21, 25, 15, 8 and 3 of them at depths 1 to 6."""
    return DraftTree.from_paths(
        [*map(int, path), rank] for path, children in _CHILDREN.items() for rank in range(children)
    )


@dataclass(eq=False)
class TokenRecycling:
    """Guess from the likeliest successors that each token had the last time the model saw it.

    Source: Turning Trash into Treasure: Accelerating Inference of LLMs with Token Recycling, arXiv 2408.08696. A
    matrix holds, for every token, the `k` tokens that the model found likeliest after it, in order; a breadth-first
    walk through it fills a tree of fixed shape. Every pass updates the rows of all tokens that it saw, accepted or
    not. The matrix is kept from text to text.

    The paper's template is used best node first, so that a smaller tree is a part of a larger one: nodes are ordered
    by how often they have been accepted, which is counted here as decoding goes on (the template's own order to begin
    with). Published code leaves open which row counts when a token occurs twice in a pass; here the last one in the
    tree's order does, and accepted nodes come last.

    Attributes:
        vocabulary: number of token ids.
        k: successors that are kept, at least the template's widest node (8). With 32-bit ids a vocabulary of 50,000
        takes
            1.6 MB.
        tree: the template.
    """

    vocabulary: int
    k: int = 8
    tree: DraftTree = field(default_factory=template)
    hidden: ClassVar[bool] = False
    successors: Int[np.ndarray, "vocabulary k"] = field(init=False, repr=False)
    _hits: np.ndarray = field(init=False, repr=False)
    _parts: dict[int, tuple[DraftTree, np.ndarray]] = field(init=False, repr=False, default_factory=dict)
    _last: dict[int, np.ndarray] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.k <= int(self.tree.rank.max()):
            raise InputError(
                f"The template asks for candidate {int(self.tree.rank.max())}, but only {self.k} are kept."
            )
        self.successors = np.full((self.vocabulary, self.k), -1, np.int32)
        # A prior worth a few passes: each node half as likely as its parent and the sibling before it.
        self._hits = 4 * 0.5 ** np.array([sum(int(self.tree.rank[i]) + 1 for i in self.tree.path(node)[1:])
                                          for node in range(self.tree.n)])  # fmt: skip

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`. The matrix stays; what successions the prompts hold is put in."""
        for prompt in prompts:
            for token, successor in pairwise(prompt):
                self._promote(token, successor)
        self._parts.clear()  # order the nodes anew, by what has been accepted since

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        tree, origin = self._part(limit)
        tokens = np.full(tree.n, text[-1], np.int64)
        for level in tree.levels:
            tokens[level] = self.successors[tokens[tree.parent[level]], tree.rank[level]]
        known = tokens >= 0  # a token that was never seen has no successors; nor have its descendants
        if not known.all():
            tree, tokens, origin = _without(tree, tokens, origin, known)
        self._last[row] = origin
        return Draft(tree, tokens)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        best = verified.logits.topk(self.k, dim=-1).indices.to("cpu", torch.int32).numpy()
        path = list(verified.accepted.path)
        tokens = verified.draft.tokens
        self.successors[tokens] = best  # of equal tokens, the last one counts
        self.successors[tokens[path]] = best[path]
        origin = self._last.pop(row, None)
        if origin is not None:
            self._hits[origin[path]] += 1

    def _part(self, nodes: int) -> tuple[DraftTree, np.ndarray]:
        """The best nodes of the template, as a tree, and which they are."""
        if nodes not in self._parts:
            order = sorted(range(1, self.tree.n), key=lambda i: (-self._hits[i], self.tree.depth[i], i))
            closed = [
                i for i in order if all(p == 0 or self._hits[p] >= self._hits[i] for p in self.tree.path(i))
            ]
            kept = np.array([0, *sorted(closed[:nodes])])
            self._parts[nodes] = (_subtree(self.tree, kept), kept)
        return self._parts[nodes]

    def _promote(self, token: int, successor: int) -> None:
        """Put a successor in front, if it is not among the candidates yet."""
        row = self.successors[token]
        if successor not in row:
            row[1:] = row[:-1]
            row[0] = successor


def _subtree(tree: DraftTree, kept: np.ndarray) -> DraftTree:
    number = np.full(tree.n, -1)
    number[kept] = np.arange(len(kept))
    return DraftTree(np.array([-1, *number[tree.parent[kept[1:]]]]), tree.rank[kept])


def _without(
    tree: DraftTree, tokens: np.ndarray, origin: np.ndarray, known: np.ndarray
) -> tuple[DraftTree, np.ndarray, np.ndarray]:
    kept = np.flatnonzero((tree.ancestors <= known).all(1))
    return _subtree(tree, kept), tokens[kept], origin[kept]
