"""Cover encodings of a text as ranges of a vocabulary: what they weigh, and what they say about the next byte.

A cover of a text is a token sequence of which all but the last token decode to less than the text, and which decodes to
something that starts with the text. The covers that share all but their last token are a `Group`: the sequence before
(its *left*), and a node of the vocabulary's trie, below which the possible last tokens lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from tokenry.predict.lm.byte_probabilities.cache import PrefixNode
from tokenry.predict.lm.byte_probabilities.validity import Validity
from tokenry.text.trie import ByteTrie

Fresh: TypeAlias = tuple[PrefixNode, float]
"""A token sequence that ends where the text does, and its log-probability."""

Live: TypeAlias = tuple[PrefixNode, int]
"""A token sequence, and the trie node of what its next token has to start with."""

Plan: TypeAlias = tuple[list[PrefixNode], dict[tuple[int, int], PrefixNode]]
"""New nodes, parents first; the same by (id of parent, token)."""

END = 256  # index of "the text ends here" in a distribution over bytes


@dataclass(frozen=True, eq=False)
class Group:
    """Covers with one left.

    Attributes:
        left: the tokens before the last.
        log_mass: log-probability of the left.
        at: trie node of what the last token has to start with.
        probs: probabilities of the tokens ``order[offset: offset + len(probs)]`` of the trie; invalid ones have 0.
        offset: see there.
        end: probability that the text ends after the left.
    """

    left: PrefixNode
    log_mass: float
    at: int
    probs: Float[np.ndarray, " tokens"]
    offset: int
    end: float = 0.0

    def below(self, trie: ByteTrie, node: int) -> Float[np.ndarray, " tokens"]:
        """Probabilities of the tokens below a trie node."""
        lo, hi = trie.span(node)
        return self.probs[lo - self.offset : hi - self.offset]


class Covers:
    """How groups are made, advanced by a byte and read.

    Args:
        trie: of the vocabulary.
        validity: which tokens may follow which.
        stops: tokens that end a text.
        fast: leave the mask off the last token of a cover; lefts are checked all the same (see also `masked`).
        min_log_mass: `kept` drops what lies this far below the best; None for nothing.
        max_groups: `kept` leaves at most so many; None for all.
    """

    def __init__(
        self,
        trie: ByteTrie,
        validity: Validity,
        stops: Sequence[int],
        fast: bool = False,
        min_log_mass: float | None = None,
        max_groups: int | None = None,
    ) -> None:
        self.trie = trie
        self.min_log_mass = min_log_mass
        self.max_groups = max_groups
        self.validity = validity
        self.stops = list(stops)
        self.fast = fast
        self._order = torch.from_numpy(trie.order.copy())

    def group(self, left: PrefixNode, log_mass: float) -> Group:
        """The covers that a left begins, before anything of the next token is known."""
        assert left.logits is not None
        logits = left.logits.detach().to("cpu", torch.float64)
        probs = torch.softmax(logits, -1).numpy()
        left.logits = None
        below = probs[self.trie.order]
        if not self.fast:
            below *= self.validity.mask(left.context)[self.trie.order]
        end = float(probs[self.stops].sum()) if left.context.final else 0.0
        return Group(left, log_mass, self.trie.root, below, 0, end)

    def advance(self, group: Group, byte: int) -> tuple[Group | None, list[tuple[int, float]]]:
        """What is left of a group when the next byte is known, and its tokens that end there.

        Returns:
            the group one byte further, or None; (token, log-probability of left and token) of complete covers.
        """
        node = self.trie.child(group.at, byte)
        if node < 0:
            return None, []
        probs = group.below(self.trie, node)
        if not probs.any():
            return None, []
        if len(probs) * 4 < len(group.probs):
            probs = probs.copy()  # the whole vocabulary's can be freed
        lo, _ = self.trie.span(node)
        moved = Group(group.left, group.log_mass, node, probs, lo)
        complete = []
        for token, at in self.ending(node):
            p = float(probs[at - lo])
            if p > 0 and (not self.fast or self.validity.mask(group.left.context)[token]):
                complete.append((token, group.log_mass + float(np.log(p))))
        return moved, complete

    def next(self, left: PrefixNode, token: int) -> PrefixNode:
        """The token sequence with one token more; the model has yet to be asked about it."""
        return PrefixNode(token, left, left.position + 1, self.validity.extend(left.context, token))

    def masked(self, group: Group) -> Group | None:
        """A group without the tokens that may not follow its left; None if there are no others."""
        order = self.trie.order[group.offset : group.offset + len(group.probs)]
        probs = group.probs * self.validity.mask(group.left.context)[order]
        return replace(group, probs=probs) if probs.any() else None

    def ending(self, node: int) -> Iterator[tuple[int, int]]:
        """Tokens that are exactly a node's prefix, and where they stand in the trie's order."""
        lo, hi = self.trie.ends(node)
        for at in range(lo, hi):
            yield int(self.trie.order[at]), at

    def kept(self, groups: Sequence[Group], fresh: Sequence[Fresh]) -> tuple[list[Group], list[Fresh]]:
        """Groups, and token sequences that end where the text does, without those that weigh too little."""
        least, most = self.min_log_mass, self.max_groups
        if least is None and most is None:
            return list(groups), list(fresh)
        weights = [*self.weights(groups), *(mass for _, mass in fresh)]
        floor = -math.inf if least is None else max(weights) + least
        if most is not None and len(weights) > most:
            floor = max(floor, sorted(weights)[-most])
        keep = [weight >= floor for weight in weights]
        return (
            [g for g, k in zip(groups, keep, strict=False) if k],
            [f for f, k in zip(fresh, keep[len(groups) :], strict=True) if k],
        )

    def unfinished(self, groups: Sequence[Group]) -> list[Group]:
        """Groups whose last token may go on: a trie node without children holds but the token that ends there."""
        first = self.trie.first_child
        return [g for g in groups if first[g.at] < first[g.at + 1]]

    def ahead(self, live: Sequence[Live], text: bytes, only_the_end: bool = False) -> Plan:
        """The token sequences that stepping through a text will ask the model about.

        Args:
            live: lefts, and the trie nodes of what their next tokens have to start with.
            text: the next bytes.
            only_the_end: leave out those that no cover of the whole text begins with.
        """
        nodes: list[PrefixNode] = []
        known: dict[tuple[int, int], PrefixNode] = {}
        for byte in text:
            moved_on: list[Live] = []
            for left, at in live:
                node = self.trie.child(at, byte)
                if node < 0:
                    continue
                moved_on.append((left, node))
                for token, _ in self.ending(node):
                    if self.validity.mask(left.context)[token]:
                        new = known[id(left), token] = self.next(left, token)
                        nodes.append(new)
                        moved_on.append((new, self.trie.root))
            live = moved_on
        if not only_the_end:
            return nodes, known
        needed: set[int] = set()
        for left, _ in live:
            node_: PrefixNode | None = left
            while node_ is not None and id(node_) not in needed:
                needed.add(id(node_))
                node_ = node_.parent
        return (
            [node for node in nodes if id(node) in needed],
            {key: node for key, node in known.items() if id(node) in needed},
        )

    def sequences(self, group: Group) -> Iterator[tuple[int, ...]]:
        """The covers of a group that have any probability, as token sequences."""
        lo, _ = self.trie.span(group.at)
        left = group.left.tokens()
        for i in np.flatnonzero(group.below(self.trie, group.at)):
            yield (*left, int(self.trie.order[lo + i]))

    def log_mass(self, groups: Sequence[Group]) -> float:
        """Log-probability of all covers: of the text, by the byte-token representation lemma."""
        return _log_sum([(g.log_mass, float(g.below(self.trie, g.at).sum())) for g in groups])

    def weights(self, groups: Sequence[Group]) -> list[float]:
        """Log-probability of each group."""
        return [_log_sum([(g.log_mass, float(g.below(self.trie, g.at).sum()))]) for g in groups]

    def next_bytes(self, groups: Sequence[Group]) -> tuple[Float[np.ndarray, "257"], float]:
        """Mass of every next byte, and of the end.

        Returns:
            masses; log of the unit that they are given in.
        """
        mass = np.zeros(257)
        # A deep group can weigh next to nothing of its left: the unit is the heaviest group, not the heaviest left.
        unit = max([*self.weights(groups), *(g.log_mass for g in groups if g.end > 0)], default=float("-inf"))
        if np.isneginf(unit):
            return mass, unit
        first, lo = self.trie.first_child, self.trie.lo
        for group in groups:
            weight = np.exp(group.log_mass - unit)
            a, b = int(first[group.at]), int(first[group.at + 1])
            if a < b:
                _, hi = self.trie.span(group.at)
                starts = lo[a:b].astype(np.int64) - group.offset
                parts = np.add.reduceat(group.probs[: hi - group.offset], starts)
                mass[self.trie.byte[a:b]] += weight * parts
            mass[END] += weight * group.end
        return mass, unit


def _log_sum(terms: Sequence[tuple[float, float]]) -> float:
    """log of sum of exp(a) * b."""
    with np.errstate(divide="ignore"):
        logs = np.array([a + np.log(b) for a, b in terms])
    if not len(logs) or np.isneginf(logs).all():
        return float("-inf")
    top = logs.max()
    return float(top + np.log(np.exp(logs - top).sum()))
