"""Draft trees: several guesses at how a text goes on, laid out so that one forward pass judges all of them.

Node 0 is the root: the last token that is already decided but not yet in the cache. Every other node is a guess at
what follows its parent. Parents come before their children.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenry.tokens.errors import InputError


@dataclass(frozen=True, eq=False)
class DraftTree:
    """The shape of a draft: which node follows which.

    Attributes:
        parent: of each node; -1 for the root, node 0.
        rank: which of its parent's candidates each node is; 0 for the root.
    """

    parent: Int[np.ndarray, " n"]
    rank: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        parent = self.parent
        if (
            not len(parent)
            or parent[0] != -1
            or (parent[1:] < 0).any()
            or (parent >= np.arange(len(parent))).any()
        ):
            raise InputError(
                f"A draft tree starts with its root, and each node follows an earlier one; got {parent.tolist()}."
            )

    @classmethod
    def from_paths(cls, paths: Iterable[Sequence[int]]) -> Self:
        """A template from paths of ranks: (0, 2) is the third candidate after the first one.

        Nodes are sorted by depth, then by path.

        Raises:
            InputError: a path whose beginning is missing, or an empty one.
        """
        ordered = sorted({tuple(path) for path in paths}, key=lambda path: (len(path), path))
        index = {(): 0} | {path: i for i, path in enumerate(ordered, 1)}
        for path in ordered:
            if not path or path[:-1] not in index:
                raise InputError(f"Path {list(path)} of a draft tree has no beginning among the others.")
        return cls(
            np.array([-1, *(index[path[:-1]] for path in ordered)]),
            np.array([0, *(path[-1] for path in ordered)]),
        )

    @classmethod
    def chain(cls, length: int) -> Self:
        """One guess after the other: a root and `length` nodes."""
        return cls(np.arange(-1, length), np.zeros(length + 1, np.int64))

    @property
    def n(self) -> int:
        """Number of nodes, the root included."""
        return len(self.parent)

    @cached_property
    def depth(self) -> Int[np.ndarray, " n"]:
        """Steps from the root."""
        found = np.zeros(self.n, np.int64)
        for i in range(1, self.n):
            found[i] = found[self.parent[i]] + 1
        return found

    @cached_property
    def ancestors(self) -> Bool[np.ndarray, "n n"]:
        """``[i, j]``: node j is node i or lies on its way to the root, so that i may attend to j."""
        found = np.eye(self.n, dtype=bool)
        for i in range(1, self.n):
            found[i] |= found[self.parent[i]]
        return found

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """The children of each node, in order."""
        found: list[list[int]] = [[] for _ in range(self.n)]
        for i in range(1, self.n):
            found[self.parent[i]].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def leaves(self) -> tuple[int, ...]:
        """Nodes without children."""
        return tuple(i for i, below in enumerate(self.children) if not below)

    @cached_property
    def retrieve(self) -> Int[np.ndarray, "leaves depth"]:
        """The nodes on the way from the root to each leaf, the root first, -1 behind the end."""
        found = np.full((len(self.leaves), int(self.depth.max()) + 1), -1)
        for row, leaf in enumerate(self.leaves):
            path = self.path(leaf)
            found[row, : len(path)] = path
        return found

    @cached_property
    def levels(self) -> tuple[Int[np.ndarray, " k"], ...]:
        """The nodes of each depth from 1 on."""
        return tuple(np.flatnonzero(self.depth == depth) for depth in range(1, int(self.depth.max()) + 1))

    def path(self, node: int) -> list[int]:
        """The nodes from the root to a node."""
        found = [node]
        while self.parent[found[-1]] >= 0:
            found.append(int(self.parent[found[-1]]))
        return found[::-1]

    def best(self, nodes: int, value: Mapping[int, float] | Sequence[float]) -> Self:
        """The subtree of the most valuable nodes, in their order; a node's value is at most its parent's.

        Args:
            nodes: how many to keep beside the root.
            value: of each node.
        """
        order = sorted(range(1, self.n), key=lambda i: (-value[i], self.depth[i], i))
        kept = sorted(order[: max(nodes, 0)])
        number = {0: 0} | {node: i for i, node in enumerate(kept, 1)}
        return type(self)(
            np.array([-1, *(number[int(self.parent[i])] for i in kept)]),
            np.array([0, *(self.rank[i] for i in kept)]),
        )


@dataclass(frozen=True, eq=False)
class Probes:
    """Rows of a pass that are no guesses: learned embeddings behind a node, whose logits tell what might come later.

    A probe sees the cached text, the node it follows, that node's ancestors and the other probes it names; no node
    sees a probe. Its keys and values are never kept.

    Attributes:
        after: the node that each probe follows.
        depth: how many steps behind that node it stands, from 1.
        sees: which probes each one attends to, itself among them.
        embeddings: what stands in place of a token's embedding.
    """

    after: Int[np.ndarray, " p"]
    depth: Int[np.ndarray, " p"]
    sees: Bool[np.ndarray, "p p"]
    embeddings: Float[Tensor, "p d"]

    def __post_init__(self) -> None:
        if not self.sees.diagonal().all() or (self.depth < 1).any():
            raise InputError("A probe sees itself and stands at least one step behind its node.")

    @property
    def n(self) -> int:
        """Number of probes."""
        return len(self.after)


@dataclass(frozen=True, eq=False)
class Draft:
    """A tree with a token at every node.

    Attributes:
        tree: its shape.
        tokens: of each node, the root first.
        probes: further rows of the pass, if the proposer wants any.
        proposal: the distribution that each node's children were drawn from, one after the other without replacement;
            None if they were not drawn. Rows of leaves are not looked at.
        chance: how likely each node is to be accepted, in the proposer's estimate, falling from node to node (the
            root: 1). A pass may then judge the first nodes only; None: all or nothing.
    """

    tree: DraftTree
    tokens: Int[np.ndarray, " n"]
    probes: Probes | None = None
    proposal: Float[Tensor, "n v"] | None = None
    chance: Float[np.ndarray, " n"] | None = None

    @property
    def rows(self) -> int:
        """Rows of the pass that judges the draft: nodes and probes."""
        return self.tree.n + (self.probes.n if self.probes is not None else 0)

    def __post_init__(self) -> None:
        if self.tokens.shape != (self.tree.n,):
            raise InputError(f"A draft of {self.tree.n} nodes needs as many tokens, got {self.tokens.shape}.")
        for name, values in (("chance", self.chance), ("proposal", self.proposal)):
            if values is not None and len(values) != self.tree.n:
                raise InputError(f"A draft of {self.tree.n} nodes has {len(values)} rows of {name}.")
        if self.probes is not None and self.probes.n and int(self.probes.after.max()) >= self.tree.n:
            raise InputError(
                f"A probe follows node {int(self.probes.after.max())} of a draft of {self.tree.n} nodes."
            )

    def first(self, nodes: int) -> Draft:
        """The draft without what lies behind its first nodes.

        Args:
            nodes: how many to keep beside the root.
        """
        n = nodes + 1
        if n >= self.tree.n:
            return self
        tree = DraftTree(self.tree.parent[:n], self.tree.rank[:n])
        proposal = None if self.proposal is None else self.proposal[:n]
        chance = None if self.chance is None else self.chance[:n]
        return Draft(tree, self.tokens[:n], None, proposal, chance)

    @classmethod
    def of(cls, root: int, continuations: Iterable[Sequence[int]], limit: int | None = None) -> Self:
        """Several continuations merged into one tree: common beginnings are shared.

        Args:
            root: the token they follow.
            continuations: token sequences, the more promising ones first.
            limit: most nodes beside the root; what comes later is cut.
        """
        parents, tokens = [-1], [root]
        place: dict[tuple[int, int], int] = {}
        for continuation in continuations:
            at = 0
            for token in continuation:
                key = (at, int(token))
                if key not in place:
                    if limit is not None and len(tokens) > limit:
                        break
                    place[key] = len(tokens)
                    parents.append(at)
                    tokens.append(int(token))
                at = place[key]
        ranks = np.zeros(len(tokens), np.int64)
        seen: dict[int, int] = {}
        for i, parent in enumerate(parents):
            ranks[i] = seen.get(parent, 0)
            seen[parent] = seen.get(parent, 0) + 1
        return cls(DraftTree(np.array(parents), ranks), np.array(tokens))
