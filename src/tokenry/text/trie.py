"""A vocabulary as a sorted array with a trie over it: the tokens that start with given bytes are one range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int, UInt8

from tokenry.tokens.errors import InputError


@dataclass(frozen=True, eq=False)
class ByteTrie:
    """Token ids sorted by their bytes, and the tree of their prefixes.

    A node stands for a byte prefix that some token has. It is a number; what belongs to it lies in arrays, about 13
    bytes a node, without Python objects. Nodes are numbered breadth first, so that the children of a node are
    consecutive and sorted by byte. Make one with `ByteTrie.build`.

    Attributes:
        order: token ids sorted by bytes, ties by id.
        lo, hi: node -> the tokens that start with its prefix are ``order[lo:hi]``; the token that *is* the prefix, if
            there is one, comes first.
        byte: node -> the last byte of its prefix (0 for the root).
        first_child: node -> its first child; its children end where those of the next node begin.
    """

    order: Int[np.ndarray, " n"]
    lo: Int[np.ndarray, " nodes"]
    hi: Int[np.ndarray, " nodes"]
    byte: UInt8[np.ndarray, " nodes"]
    first_child: Int[np.ndarray, " nodes_and_end"]

    @classmethod
    def build(cls, token_bytes: Sequence[bytes | None]) -> Self:
        """Build it from the bytes of each id.

        Args:
            token_bytes: bytes of token 0, 1, ...; None and empty tokens are left out.

        Raises:
            InputError: there is no token at all.
        """
        tokens = sorted((data, token) for token, data in enumerate(token_bytes) if data)
        if not tokens:
            raise InputError("A trie needs at least one token with bytes.")
        lengths = np.array([len(data) for data, _ in tokens])
        flat = np.frombuffer(b"".join(data for data, _ in tokens), np.uint8)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        # Level by level: `rows` are the tokens longer than the prefixes so far, `parent` the node each is below.
        rows = np.arange(len(tokens))
        parent = np.zeros(len(tokens), np.int64)
        lo, hi, labels, parents = [np.array([0])], [np.array([len(tokens)])], [np.zeros(1, np.uint8)], []
        count, depth = 1, 0
        while len(rows):
            label = flat[starts[rows] + depth]
            new = np.ones(len(rows), bool)
            new[1:] = (parent[1:] != parent[:-1]) | (label[1:] != label[:-1])
            first = np.flatnonzero(new)
            last = np.append(first[1:], len(rows)) - 1
            # Tokens of one node are consecutive in the whole order: those that ended earlier sort before longer ones.
            lo.append(rows[first])
            hi.append(rows[last] + 1)
            labels.append(label[first])
            parents.append(parent[first])
            parent = count + np.cumsum(new) - 1
            count += len(first)
            depth += 1
            longer = lengths[rows] > depth
            rows, parent = rows[longer], parent[longer]
        children = np.bincount(np.concatenate(parents), minlength=count)
        return cls(
            order=np.array([token for _, token in tokens]),
            lo=np.concatenate(lo).astype(np.int32),
            hi=np.concatenate(hi).astype(np.int32),
            byte=np.concatenate(labels),
            first_child=(1 + np.concatenate([[0], np.cumsum(children)])).astype(np.int32),
        )

    @property
    def root(self) -> int:
        """The node of the empty prefix."""
        return 0

    def child(self, node: int, byte: int) -> int:
        """The node one byte further, or -1."""
        a, b = self.first_child[node], self.first_child[node + 1]
        at = int(a + np.searchsorted(self.byte[a:b], byte))
        return at if at < b and self.byte[at] == byte else -1

    def children(self, node: int) -> tuple[UInt8[np.ndarray, " k"], Int[np.ndarray, " k"]]:
        """The bytes that can follow, in order, and the nodes that they lead to."""
        a, b = int(self.first_child[node]), int(self.first_child[node + 1])
        return self.byte[a:b], np.arange(a, b, dtype=np.int32)

    def node(self, prefix: bytes, start: int = 0) -> int:
        """The node of a prefix, or -1 if no token starts with it; ``start`` is where to set out from."""
        for byte in prefix:
            start = self.child(start, byte)
            if start < 0:
                return -1
        return start

    def span(self, node: int) -> tuple[int, int]:
        """The tokens below a node are ``order[lo:hi]``."""
        return int(self.lo[node]), int(self.hi[node])

    def ends(self, node: int) -> tuple[int, int]:
        """The tokens that are exactly a node's prefix are ``order[lo:hi]``."""
        a, b = self.first_child[node], self.first_child[node + 1]
        return int(self.lo[node]), int(self.lo[a] if a < b else self.hi[node])

    def range(self, prefix: bytes) -> tuple[int, int]:
        """The tokens that start with a prefix are ``order[lo:hi]``; (0, 0) if there are none."""
        node = self.node(prefix)
        return (0, 0) if node < 0 else self.span(node)

    def prefixes(self, data: bytes, start: int = 0) -> list[int]:
        """Ids of all tokens that stand in a text at a place, shortest first."""
        found: list[int] = []
        node = self.root
        for byte in memoryview(data)[start:]:
            node = self.child(node, byte)
            if node < 0:
                break
            lo, hi = self.ends(node)
            found.extend(self.order[lo:hi].tolist())
        return found

    def longest_prefix(self, data: bytes, start: int = 0) -> tuple[int, int]:
        """Id and length of the longest token that stands in a text at a place; (-1, 0) if none does."""
        best, length, node = -1, 0, self.root
        for depth, byte in enumerate(memoryview(data)[start:], 1):
            node = self.child(node, byte)
            if node < 0:
                break
            lo, hi = self.ends(node)
            if lo < hi:
                best, length = int(self.order[lo]), depth
        return best, length
