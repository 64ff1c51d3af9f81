"""Repeatedly merging the most frequent pair of neighbours, without counting everything again after each merge."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from tokenry.tokens.errors import InputError

Pair = tuple[bytes, bytes]
_END = -1


def _always(left: bytes, right: bytes) -> bool:
    return True


def naive_merges(
    sequences: Sequence[Sequence[bytes]], merges: int, valid: Callable[[bytes, bytes], bool] = _always
) -> tuple[list[list[bytes]], list[Pair]]:
    """The definition: count every pair of the batch, merge the most frequent, and begin again.

    It is the oracle of `MergeQueue` in tests and benchmarks, and what published code does (arXiv 2411.18553).

    Args:
        sequences: tokens of every sample.
        merges: how many merges at most.
        valid: which pairs may merge.

    Returns:
        The merged sequences and the pairs, in the order of their merges.
    """
    rows = [list(sequence) for sequence in sequences]
    chosen: list[Pair] = []
    memo: dict[Pair, bool] = {}
    while len(chosen) < merges:
        counts: Counter[Pair] = Counter()  # keeps the order in which pairs were met: max() takes the first
        for row in rows:
            counts.update(pairwise(row))
        for pair in counts:
            if pair not in memo:
                memo[pair] = valid(*pair)
        allowed = [pair for pair in counts if memo[pair]]
        if not allowed:
            break
        best = max(allowed, key=counts.__getitem__)
        rows = [_merged(row, best) for row in rows]
        chosen.append(best)
    return rows, chosen


def _merged(row: list[bytes], pair: Pair) -> list[bytes]:
    """All occurrences of a pair in a row joined, from left to right."""
    left, right = pair
    out, i = [], 0
    while i < len(row):
        if i + 1 < len(row) and row[i] == left and row[i + 1] == right:
            out.append(left + right)
            i += 2
        else:
            out.append(row[i])
            i += 1
    return out


class MergeQueue:
    """Merges in a batch of token sequences: the same as `naive_merges`, at the cost of what a merge touches.

    Tokens are a linked list over all samples; every valid pair knows the nodes it begins at; a heap of
    (-count, first node, pair) gives the next merge, where entries that are out of date are thrown away when they
    come up. Merging touches the neighbours of its occurrences only, so that all merges together cost
    O(tokens + occurrences * log) instead of O(merges * tokens).

    As in the naive count, overlapping occurrences count (three equal tokens in a row are two pairs), occurrences merge
    from left to right, and of equally frequent pairs the one met first in batch order wins. Two merges that produce the
    same bytes produce the same token.

    Args:
        sequences: tokens of every sample, as bytes; an empty sample is allowed, an empty token is not.
        valid: which pairs may merge; asked once for each pair.

    Raises:
        InputError: if a token is empty.
    """

    def __init__(
        self, sequences: Sequence[Sequence[bytes]], valid: Callable[[bytes, bytes], bool] = _always
    ) -> None:
        self._valid = valid
        self._names: list[bytes] = []
        self._symbols: dict[bytes, int] = {}
        self._heads: list[int] = []
        # One symbol a node, with a sentinel after every sample: no pair reaches over it.
        symbol: list[int] = []
        for sequence in sequences:
            self._heads.append(len(symbol))
            symbol.extend(self._symbol(token) for token in sequence)
            symbol.append(_END)
        n = len(symbol)
        self._symbol_at = symbol
        self._next = list(range(1, n + 1))
        self._previous = list(range(-1, n - 1))
        self._size = n - len(self._heads)
        # A pair is one integer: hashing a tuple of bytes would cost more than the rest of the bookkeeping.
        self._where: dict[int, set[int]] = {}
        self._order: dict[int, list[int]] = {}  # heap of the same nodes, deleted lazily: its top is the first
        self._allowed: dict[int, bool] = {}
        self._heap: list[tuple[int, int, int]] = []
        found: dict[int, list[int]] = {}
        for node in range(n - 1):
            if symbol[node] != _END and symbol[node + 1] != _END:
                found.setdefault(symbol[node] << 32 | symbol[node + 1], []).append(node)
        for key, nodes in found.items():
            if self._is_allowed(key):
                self._where[key], self._order[key] = set(nodes), nodes
                self._heap.append((-len(nodes), nodes[0], key))
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        """Number of tokens in the batch as it now stands."""
        return self._size

    @property
    def sequences(self) -> list[list[bytes]]:
        """The tokens of every sample as they now stand."""
        return [[self._names[self._symbol_at[node]] for node in nodes] for nodes in self._nodes()]

    @property
    def origins(self) -> list[list[int]]:
        """For every token the index, in its original sequence, of its first part: what carries its word id or label."""
        return [
            [node - head for node in nodes] for head, nodes in zip(self._heads, self._nodes(), strict=True)
        ]

    def merge(self) -> Pair | None:
        """Merge the most frequent valid pair everywhere.

        Returns:
            The pair, or None if no valid pair is left.
        """
        key = self._most_frequent()
        if key is None:
            return None
        left, right = key >> 32, key & 0xFFFFFFFF
        pair = self._names[left], self._names[right]
        merged = self._symbol(pair[0] + pair[1])
        symbol, following, previous = self._symbol_at, self._next, self._previous
        touched: set[int] = set()
        for node in sorted(self._where.pop(key)):
            other = following[node]
            if symbol[node] != left or symbol[other] != right:
                continue  # its second token has gone into the occurrence just before it
            before, after = previous[node], following[other]
            if before >= 0 and symbol[before] != _END:
                touched.add(self._forget(symbol[before] << 32 | left, before))
                touched.add(self._note(symbol[before] << 32 | merged, before))
            if symbol[after] != _END:
                touched.add(self._forget(right << 32 | symbol[after], other))
                touched.add(self._note(merged << 32 | symbol[after], node))
            symbol[node], symbol[other] = merged, _END
            following[node], previous[after] = after, node
            self._size -= 1
        touched.discard(key)
        for changed in touched:
            self._announce(changed)
        return pair

    def run(self, merges: int | None = None, *, until: int | None = None) -> list[Pair]:
        """Merge several times, stopping early where no valid pair is left.

        Args:
            merges: how many merges at most; without a limit, all.
            until: stop as soon as the batch has at most this many tokens.

        Returns:
            The merged pairs, in order.
        """
        if merges is not None and merges < 0:
            raise InputError(f"The number of merges must not be negative, got {merges}")
        done: list[Pair] = []
        while (merges is None or len(done) < merges) and (until is None or self._size > until):
            pair = self.merge()
            if pair is None:
                break
            done.append(pair)
        return done

    def _nodes(self) -> list[list[int]]:
        """The living nodes of every sample, in order."""
        out = []
        for head in self._heads:
            nodes, node = [], head
            while self._symbol_at[node] != _END:
                nodes.append(node)
                node = self._next[node]
            out.append(nodes)
        return out

    def _symbol(self, token: bytes) -> int:
        if not token:
            raise InputError("A token to be merged must have at least one byte.")
        symbol = self._symbols.setdefault(token, len(self._names))
        if symbol == len(self._names):
            self._names.append(token)
        return symbol

    def _is_allowed(self, key: int) -> bool:
        allowed = self._allowed.get(key)
        if allowed is None:
            allowed = self._valid(self._names[key >> 32], self._names[key & 0xFFFFFFFF])
            self._allowed[key] = allowed
        return allowed

    def _forget(self, key: int, node: int) -> int:
        """A pair no longer begins at a node."""
        nodes = self._where.get(key)
        if nodes is not None:
            nodes.discard(node)
        return key

    def _note(self, key: int, node: int) -> int:
        """A pair now begins at a node."""
        nodes = self._where.get(key)
        if nodes is not None:
            nodes.add(node)
            heapq.heappush(self._order[key], node)
        elif self._is_allowed(key):
            self._where[key], self._order[key] = {node}, [node]
        return key

    def _announce(self, key: int) -> None:
        """Put the present count and first node of a pair on the heap; older entries of it become void."""
        nodes = self._where.get(key)
        if nodes is None:
            return
        if not nodes:
            del self._where[key], self._order[key]
            return
        order = self._order[key]
        while order[0] not in nodes:
            heapq.heappop(order)
        heapq.heappush(self._heap, (-len(nodes), order[0], key))

    def _most_frequent(self) -> int | None:
        """The pair whose entry is on top and still true."""
        while self._heap:
            count, first, key = heapq.heappop(self._heap)
            nodes = self._where.get(key)
            # Every change of a pair was announced, so an entry that is not true has a true one somewhere below.
            if nodes is not None and len(nodes) == -count and first in nodes and self._order[key][0] == first:
                return key
        return None
