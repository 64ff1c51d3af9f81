"""Prompt lookup: what followed the last few tokens before, follows them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError


@dataclass(eq=False)
class PromptLookup:
    """Draft what came after an earlier occurrence of the text's last tokens.

    The baseline of drafting without a model (prompt lookup decoding; transformers has it as
    `prompt_lookup_num_tokens`). Here the longest n-gram counts, the latest occurrence first, and several occurrences
    make a tree. Finding them takes a dictionary per n-gram length that grows with the text.

    Attributes:
        longest: most tokens that are matched.
        shortest: fewest.
        occurrences: continuations of how many places are drafted.
        length: tokens of each continuation.
    """

    longest: int = 3
    shortest: int = 1
    occurrences: int = 2
    length: int = 10
    hidden: ClassVar[bool] = False
    _seen: list[dict[tuple[int, ...], list[int]]] = field(default_factory=list, repr=False)
    _read: list[int] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or min(self.occurrences, self.length) < 1:
            raise InputError(
                f"Prompt lookup needs 1 <= shortest <= longest and at least one guess, got {self}."
            )

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`."""
        self._seen = [{} for _ in prompts]
        self._read = [0 for _ in prompts]

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return Draft.of(text[-1], self.continuations(row, text), limit)

    def continuations(self, row: int, text: Sequence[int]) -> list[Sequence[int]]:
        """What followed the text's last tokens, the longest and latest match first."""
        self._index(row, text)
        seen = self._seen[row]
        places: dict[int, None] = {}
        for n in range(min(self.longest, len(text) - 1), self.shortest - 1, -1):
            for place in reversed(seen.get(tuple(text[-n:]), ())):
                if len(places) == self.occurrences:
                    break
                places.setdefault(place)
        return [text[place : place + self.length] for place in places]

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`: the text itself is all there is to know."""

    def _index(self, row: int, text: Sequence[int]) -> None:
        """Note what ends before each place that something follows."""
        seen = self._seen[row]
        for place in range(max(self._read[row], 1), len(text)):
            for n in range(self.shortest, min(self.longest, place) + 1):
                seen.setdefault(tuple(text[place - n : place]), []).append(place)
        self._read[row] = len(text)
