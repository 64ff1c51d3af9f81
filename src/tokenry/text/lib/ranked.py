"""A lexicon whose order means something: chunks ranked from best to worst, found by prefix, moved up and down."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

_END = ""  # key of a trie node at which a chunk ends; no character is empty
_BLOCK = 256  # chunks in a block while ranks change: about the square root of the lexicons this is for


class RankedLexicon:
    """A list of different chunks (rank 0 is the best), a trie over them, and each chunk's rank.

    Finding the chunks that begin at a place takes time in their length, and so does adding one; forgetting and
    reranking are done in batches, each at the cost of a pass over the list.

    Args:
        chunks: the first contents, best first.
    """

    def __init__(self, chunks: Iterable[str] = ()) -> None:
        self._chunks: list[str] = []
        self._rank: dict[str, int] = {}
        self._trie: dict[str, Any] = {}
        for chunk in chunks:
            self.append(chunk)

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._chunks)

    def __contains__(self, chunk: object) -> bool:
        return chunk in self._rank

    def rank(self, chunk: str) -> int:
        """Rank of a chunk; of one that is not in the lexicon: one worse than the worst."""
        return self._rank.get(chunk, len(self._chunks))

    def append(self, chunk: str) -> None:
        """Add a chunk as the worst; one that is there already stays where it is."""
        if not chunk or chunk in self._rank:
            return
        self._rank[chunk] = len(self._chunks)
        self._chunks.append(chunk)
        node = self._trie
        for char in chunk:
            node = node.setdefault(char, {})
        node[_END] = True

    def forget(self, chunks: Collection[str]) -> None:
        """Remove chunks; those that are not there are passed over."""
        gone = {chunk for chunk in chunks if chunk in self._rank}
        if gone:
            for chunk in gone:
                self._prune(chunk)
            self._reset([chunk for chunk in self._chunks if chunk not in gone])

    def rerank(self, rewards: Iterable[tuple[str, int]], rate: float) -> None:
        """Move chunks, one reward after the other: from rank r > 0 by ``sign * (floor(r * rate) + 1)``.

        The best chunk stays where it is; a chunk that would move past the worst is forgotten.

        Args:
            rewards: chunk and sign: -1 moves to better ranks, +1 to worse. Chunks that are not there are passed over.
            rate: share of its rank by which a chunk moves.
        """
        # Moving within blocks: finding and shifting costs the square root of what it would in one list.
        blocks = [self._chunks[i : i + _BLOCK] for i in range(0, len(self._chunks), _BLOCK)]
        home = {chunk: i for i, block in enumerate(blocks) for chunk in block}
        last = len(self._chunks) - 1
        for chunk, sign in rewards:
            if (i := home.get(chunk)) is None:
                continue
            at = blocks[i].index(chunk)
            rank = at + sum(map(len, blocks[:i]))
            if rank == 0:
                continue
            target = max(0, rank + sign * (int(rank * rate) + 1))
            del blocks[i][at]
            if target > last:
                del home[chunk]
                self._prune(chunk)
                last -= 1
                continue
            i = 0
            while target > len(blocks[i]):
                target -= len(blocks[i])
                i += 1
            blocks[i].insert(target, chunk)
            home[chunk] = i
        self._reset([chunk for block in blocks for chunk in block])

    def longest(self, text: str, start: int = 0) -> int:
        """Length of the longest chunk that `text` has at `start`; 0 if it has none."""
        return self.two_longest(text, start)[1]

    def two_longest(self, text: str, start: int = 0) -> tuple[int, int]:
        """Lengths of the second-longest and the longest chunk that `text` has at `start`; 0 where there is none."""
        node: dict[str, Any] | None = self._trie
        small = big = 0
        for i in range(start, len(text)):
            node = node.get(text[i])  # type: ignore[union-attr]  # None ends the loop
            if node is None:
                break
            if _END in node:
                small, big = big, i - start + 1
        return small, big

    def _reset(self, chunks: list[str]) -> None:
        self._chunks = chunks
        self._rank = {chunk: rank for rank, chunk in enumerate(chunks)}

    def _prune(self, chunk: str) -> None:
        """Take a chunk out of the trie, with the nodes that only it needed."""
        path = [self._trie]
        for char in chunk:
            path.append(path[-1][char])
        del path[-1][_END]
        for char, parent, node in zip(reversed(chunk), reversed(path[:-1]), reversed(path), strict=False):
            if node:
                break
            del parent[char]
