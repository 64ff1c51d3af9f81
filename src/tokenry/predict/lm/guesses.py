"""Guesses and how far to trust them: candidates gathered into a tree, the likeliest first.

A proposer knows little about how good a guess is - that it stood first among a token's candidates, that it followed
the last three tokens once before. Counting how often guesses of each such kind have come true turns this into a
probability, for the model and the text at hand, without any of them having to be tried: the text that is written says
of every guess whether it would have been right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float

from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError

_SURE: Final = 0.98
"""Nothing is surer than this: a chain of certainties would never end."""


@dataclass(eq=False)
class TrackRecord:
    """How often guesses of each kind have come true, where what they follow had.

    Attributes:
        prior: what is believed of each kind before anything is seen.
        weight: how many guesses that belief counts for.
        memory: once a kind was seen this often, what was seen of it counts half: texts change.
    """

    prior: Float[np.ndarray, " kinds"]
    weight: float = 8.0
    memory: float = 400.0
    _right: list[float] = field(init=False, repr=False)
    _seen: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not ((self.prior > 0) & (self.prior < 1)).all() or self.weight <= 0 or self.memory <= self.weight:
            raise InputError(
                f"Beliefs lie between 0 and 1 and weigh less than the memory ({self.memory}), got {self.prior} with "
                f"weight {self.weight}."
            )
        self._right = (self.prior * self.weight).tolist()
        self._seen = [self.weight] * len(self.prior)

    def rates(self) -> list[float]:
        """The share of each kind that came true."""
        return [min(right / seen, _SURE) for right, seen in zip(self._right, self._seen, strict=True)]

    def learn(self, kind: int, right: bool) -> None:
        """See one guess judged."""
        self._right[kind] += right
        self._seen[kind] += 1
        if self._seen[kind] > self.memory:
            self._right[kind] /= 2
            self._seen[kind] /= 2


class Guesses:
    """A tree of guesses while it grows; node 0 is the root.

    Attributes:
        tokens: of each node.
        parent: of each node, -1 for the root.
        chance: how likely each node is to be accepted if its parent is.
    """

    def __init__(self, root: int) -> None:
        self.tokens, self.parent, self.chance = [root], [-1], [1.0]
        self._kinds: list[int] = [-1]
        self._below: list[dict[int, int]] = [{}]

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, parent: int, token: int, chance: float, kind: int = -1) -> int:
        """Guess that a token follows a node; return its node.

        A guess that is there already keeps its kind, and the better of the two chances.
        """
        at = self._below[parent].get(token)
        if at is None:
            at = self._below[parent][token] = len(self.tokens)
            self.tokens.append(token)
            self.parent.append(parent)
            self.chance.append(chance)
            self._kinds.append(kind)
            self._below.append({})
        else:
            self.chance[at] = max(self.chance[at], chance)
        return at

    @classmethod
    def merged(cls, several: Sequence[Guesses]) -> Guesses:
        """All guesses in one tree; one made by two, who look at different things, is likelier than either says."""
        found = cls(several[0].tokens[0])
        for guesses in several:
            place = [0]
            for token, parent, chance in zip(
                guesses.tokens[1:], guesses.parent[1:], guesses.chance[1:], strict=True
            ):
                above = place[parent]
                known = found._below[above].get(token)
                if known is not None:
                    found.chance[known] = 1 - (1 - found.chance[known]) * (1 - chance)
                    place.append(known)
                else:
                    place.append(found.add(above, token, chance))
        return found

    def correct(self, record: TrackRecord) -> None:
        """Replace every chance by the share of guesses with such a chance that came true.

        Args:
            record: of kinds that are equal steps from 0 to 1.
        """
        rates = record.rates()
        for node in range(1, len(self)):
            kind = min(int(self.chance[node] * len(rates)), len(rates) - 1)
            self._kinds[node], self.chance[node] = kind, rates[kind]

    def draft(self, limit: int) -> Draft:
        """The likeliest guesses as a draft, the likeliest first.

        Args:
            limit: most nodes beside the root.
        """
        whole = [1.0]
        for parent, chance in zip(self.parent[1:], self.chance[1:], strict=True):
            whole.append(whole[parent] * min(chance, _SURE))
        # No guess is likelier than what it follows, so parents come first; of equals, the one that was there first.
        order = sorted(range(len(whole)), key=lambda i: -whole[i])[: limit + 1]
        number = dict(zip(order, range(len(order)), strict=True))
        parents = np.array([-1, *(number[self.parent[i]] for i in order[1:])])
        return Draft(
            DraftTree(parents, np.zeros(len(order), np.int64)),
            np.array([self.tokens[i] for i in order]),
            chance=np.array([whole[i] for i in order]),
        )

    def judge(self, written: Iterable[int], record: TrackRecord) -> None:
        """Learn from what was written in place of the guesses."""
        at = 0
        for token in written:
            for guess, node in self._below[at].items():
                record.learn(self._kinds[node], guess == token)
            if token not in self._below[at]:
                return
            at = self._below[at][token]
