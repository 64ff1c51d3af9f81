"""Which two tokens may stand side by side in what byte-pair encoding gives."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import UnsupportedError

_NEVER = np.iinfo(np.int64).max


class PairValidity:
    """Whether ``encode(u + v) == [u, v]`` inside one pre-token, for one pair or for all v at once.

    Inside a pre-token, a token sequence is the encoder's output iff every token is its own encoding and every
    adjacent pair is valid. A pair is invalid iff some merge fires across its seam: at the moment of rank m the last
    piece of u is a, the first piece of v is b, and (a, b) is the merge of rank m. The pieces at the seam are those on
    the right edge of u's merge tree and the left edge of v's, each alive from its own merge until that of its parent.
    For a fixed u, the v that a merge (a, b) rules out are b itself and everything below those of its parents in the
    tree of left edges that come later: two stretches of that tree in pre-order. Hence all v at once are a few thousand
    intervals and one running sum.

    That argument needs every merge to come after those that make its parts, which training guarantees. For other tables
    (hand-made or converted ones) pairs are encoded one by one, which gives the same and is slow.

    Args:
        vocab: vocabulary of a BPE tokenizer.
        remembered: how many rows of `row` are kept.

    Raises:
        UnsupportedError: not BPE, or BPE with drop-out, word suffixes or merges that are skipped for whole words that
            they could not build.
    """

    def __init__(self, vocab: ByteVocab, remembered: int = 256) -> None:
        model = json.loads(vocab.tokenizer.backend_tokenizer.to_str())["model"]
        _refuse(model)
        self.vocab = vocab
        self._byte_pieces = frozenset(vocab.byte_ids) if vocab.kind == "sentencepiece" else frozenset()
        self._rows: OrderedDict[int, Bool[np.ndarray, " v"]] = OrderedDict()
        self._remembered = remembered
        size = vocab.size
        self._rank = np.full(size, -1, np.int64)  # of the merge that makes the token; -1: of one symbol
        self._left = np.full(size, -1, np.int64)
        self._right = np.full(size, -1, np.int64)
        self.reachable: Bool[np.ndarray, " v"] = np.zeros(size, bool)
        self._read(model)
        if model.get("ignore_merges") and (odd := int((~self.reachable & self._plain).sum())):
            raise UnsupportedError(
                f"This tokenizer looks whole words up before merging (ignore_merges), and {odd} of its tokens cannot "
                "be built by its merges; its encodings cannot be told from pairs of tokens."
            )

    def _read(self, model: Mapping[str, Any]) -> None:
        pieces: dict[str, int] = model["vocab"]
        merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        rules = [(pieces[a], pieces[b], pieces.get(a + b, -1)) for a, b in merges]
        made = {c for _, _, c in rules}
        self._plain = np.array([data is not None for data in self.vocab.token_bytes], bool)
        self._rules: dict[tuple[int, int], int] = {}
        for rank, (a, b, _) in enumerate(rules):
            self._rules.setdefault((a, b), rank)
        for token in pieces.values():
            if token < len(self.reachable) and self._plain[token] and token not in made:
                self.reachable[token] = self._symbol(token)
        rank_, left, right = [-1] * self.vocab.size, [-1] * self.vocab.size, [-1] * self.vocab.size
        reachable = self.reachable.tolist()
        self._lists = rank_, left, right
        self.in_order = True
        for rank, (a, b, c) in enumerate(rules):
            if c < 0 or rank_[c] >= 0 or not (reachable[a] and reachable[b]):
                continue
            if not self._crossed(a, b, rank):
                rank_[c], left[c], right[c], reachable[c] = rank, a, b, True
        # A merge whose parts are made by later ones fires out of turn: the reasoning by ranks does not hold.
        for rank, (a, b, _) in enumerate(rules):
            if (reachable[a] and rank_[a] > rank) or (reachable[b] and rank_[b] > rank):
                self.in_order = False
        if not self.in_order:
            reachable = [
                data is not None and self._alone(token) for token, data in enumerate(self.vocab.token_bytes)
            ]
        self.reachable = np.array(reachable, bool)
        self._rank, self._left, self._right = (np.array(x, np.int64) for x in self._lists)

    def _symbol(self, token: int) -> bool:
        """Whether a token that no merge makes is one of the symbols that merging starts from."""
        data = self.vocab.token_bytes[token] or b""
        if self.vocab.kind == "byte-level":
            return len(data) == 1
        return token in self._byte_pieces or len(data.decode("utf-8", "replace")) == 1

    def _alone(self, token: int) -> bool:
        data = self.vocab.token_bytes[token]
        if data is None:
            return False
        if token in self._byte_pieces:
            return True
        return self.vocab.encode_pretoken(data) == [token]

    def _crossed(self, u: int, v: int, limit: int = _NEVER) -> bool:
        """Whether a merge of a rank below ``limit`` fires across the seam of u and v."""
        rank, left, right = self._lists
        a, a_dies = u, limit
        while True:
            b, b_dies = v, limit
            while True:
                m = self._rules.get((a, b))
                # Of equal merges the leftmost fires first: a's own parent before this one, this one before b's.
                if m is not None and m < limit and m < a_dies and m <= b_dies:
                    return True
                if rank[b] < 0:
                    break
                b_dies, b = rank[b], left[b]
            if rank[a] < 0:
                return False
            a_dies, a = rank[a], right[a]

    def pair(self, u: int, v: int) -> bool:
        """Whether u and v may be neighbours inside one pre-token."""
        if not (self.reachable[u] and self.reachable[v]):
            return False
        if self.in_order:
            return not self._crossed(u, v)
        if u in self._rows:
            return bool(self._rows[u][v])
        return self._encodes(u, v)

    def _encodes(self, u: int, v: int) -> bool:
        a, b = self.vocab.token_bytes[u], self.vocab.token_bytes[v]
        assert a is not None
        assert b is not None
        if u in self._byte_pieces or v in self._byte_pieces:
            return True  # byte pieces take part in no merge; which of them may stand where is a matter of characters
        return self.vocab.encode_pretoken(a + b) == [u, v]

    def row(self, u: int) -> Bool[np.ndarray, " v"]:
        """Whether u and v may be neighbours inside one pre-token, for every v."""
        if u in self._rows:
            self._rows.move_to_end(u)
            return self._rows[u]
        if not self.reachable[u]:
            row = np.zeros(self.vocab.size, bool)
        elif self.in_order:
            row = self.reachable & ~self._ruled_out(u)
        else:
            row = self.reachable.copy()
            for v in np.flatnonzero(row).tolist():
                row[v] = self._encodes(u, v)
        row.setflags(write=False)
        self._rows[u] = row
        if len(self._rows) > self._remembered:
            self._rows.popitem(last=False)
        return row

    def _ruled_out(self, u: int) -> Bool[np.ndarray, " v"]:
        tree = self._tree
        right_parts, ranks = [], []
        a, a_dies = u, _NEVER
        while True:
            lo, hi = np.searchsorted(tree.rule_left, [a, a + 1])
            m = tree.rule_rank[lo:hi]
            alive = m < a_dies
            right_parts.append(tree.rule_right[lo:hi][alive])
            ranks.append(m[alive])
            if self._rank[a] < 0:
                break
            a_dies, a = int(self._rank[a]), int(self._right[a])
        b, m = np.concatenate(right_parts), np.concatenate(ranks)
        marks = np.zeros(self.vocab.size + 1, np.int32)
        at = tree.position[b]
        np.add.at(marks, at, 1)
        np.add.at(marks, at + 1, -1)
        # Those of b's parents, sorted by rank, that come no earlier than m: from the first such to the end of b's tree.
        first = np.searchsorted(tree.child_key, b * tree.stride + m)
        end = tree.end[b]
        start = np.minimum(np.append(tree.child_at, self.vocab.size)[first], end)
        start = np.where(
            np.append(tree.child_key, _NEVER)[first] < (b + 1) * tree.stride, start, end
        )  # none left: nothing
        np.add.at(marks, start, 1)
        np.add.at(marks, end, -1)
        return (np.cumsum(marks[:-1]) > 0)[tree.position]

    @cached_property
    def _tree(self) -> _LeftEdges:
        return _LeftEdges(self._rank, self._left, self.reachable, self._rules)


class _LeftEdges:
    """The tree in which every token hangs below the left part of its merge, in pre-order, siblings by rank.

    Attributes:
        position, end: token -> where it stands, and where what is below it ends.
        child_key, child_at: (token * stride + rank of child), sorted, and the position of that child.
        rule_left, rule_right, rule_rank: all merges, sorted by their left part.
    """

    def __init__(
        self,
        rank: Int[np.ndarray, " v"],
        left: Int[np.ndarray, " v"],
        reachable: Bool[np.ndarray, " v"],
        rules: dict[tuple[int, int], int],
    ) -> None:
        size = len(rank)
        self.stride = len(rules) + 1
        below: list[list[int]] = [[] for _ in range(size)]
        for token in np.argsort(rank, kind="stable").tolist():
            if rank[token] >= 0:
                below[left[token]].append(token)
        position, end, clock = np.zeros(size, np.int64), np.zeros(size, np.int64), 0
        stack = [(root, False) for root in np.flatnonzero(rank < 0).tolist()[::-1]]
        while stack:
            token, done = stack.pop()
            if done:
                end[token] = clock
                continue
            position[token] = clock
            clock += 1
            stack.append((token, True))
            stack.extend((child, False) for child in below[token][::-1])
        self.position, self.end = position, end
        children = np.flatnonzero(rank >= 0)
        key = left[children] * self.stride + rank[children]
        sort = np.argsort(key)
        self.child_key, self.child_at = key[sort], position[children[sort]]
        table = np.array([(a, b, m) for (a, b), m in rules.items()], np.int64).reshape(-1, 3)
        table = table[reachable[table[:, 0]] & reachable[table[:, 1]]]
        table = table[np.argsort(table[:, 0], kind="stable")]
        self.rule_left, self.rule_right, self.rule_rank = table.T.copy()


def _refuse(model: Mapping[str, Any]) -> None:
    kind = model.get("type")
    if kind != "BPE":
        raise UnsupportedError(
            f"Exact byte probabilities need a deterministic BPE tokenizer; this one is {kind}. "
            "Its valid token sequences are not told by pairs of tokens."
        )
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(
                f"This BPE tokenizer has {name}={model[name]!r}, so the same text has other tokens depending on chance "
                "or on where a word ends; exact byte probabilities do not support it."
            )
