"""n-gram draft proposer over the text so far (prompt lookup decoding)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, Self

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.predict.lm.guesses import Guesses, TrackRecord
from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError

_STEPS: Final = 4
"""Steps into a continuation that are counted apart: one that has held for a few tokens goes on holding."""


@dataclass(eq=False)
class PromptLookup:
    """Draft what came after an earlier occurrence of the text's last tokens.

    The baseline of drafting without a model (prompt lookup decoding; transformers has it as
    `prompt_lookup_num_tokens`). Here the longest n-gram counts, the latest occurrence first, and several occurrences
    make a tree. How likely a continuation is to hold is counted by the length of the match. Finding the occurrences
    takes a dictionary that grows with the text, by one entry a token and n-gram length.

    Attributes:
        longest: most tokens that are matched.
        shortest: fewest.
        occurrences: continuations of how many places are drafted.
        length: tokens of each continuation.
    """

    longest: int = 6
    shortest: int = 1
    occurrences: int = 4
    length: int = 16
    hidden: ClassVar[bool] = False
    _record: TrackRecord = field(init=False, repr=False)
    _seen: list[dict[tuple[int, ...], list[int]]] = field(init=False, repr=False, default_factory=list)
    _read: list[int] = field(init=False, repr=False, default_factory=list)
    _last: dict[int, Guesses] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or min(self.occurrences, self.length) < 1:
            raise InputError(
                f"Prompt lookup needs 1 <= shortest <= longest and at least one guess, got {self}."
            )
        # Beliefs to begin with: longer matches hold more often, and what has held holds on.
        match, step = np.divmod(np.arange((self.longest + 1) * _STEPS), _STEPS)
        self._record = TrackRecord(np.where(step == 0, 0.2 + 0.1 * match, 0.5 + 0.07 * match).clip(max=0.9))

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """See `NamedProposer.for_model`: nothing depends on the model."""
        return cls()

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`."""
        self._seen = [{} for _ in prompts]
        self._read = [0 for _ in prompts]
        self._last.clear()

    def guesses(self, row: int, text: Sequence[int], limit: int) -> Guesses:
        """See `Guesser.guesses`."""
        found = self._last[row] = Guesses(text[-1])
        rates = self._record.rates()
        for rank, (place, match) in enumerate(self._places(row, text)):
            at = 0
            for step, token in enumerate(text[place : place + self.length]):
                kind = match * _STEPS + min(step, _STEPS - 1)
                # Of several continuations at most one holds.
                share = 1.0 if step or not rank else 0.5
                at = found.add(at, token, rates[kind] * share, kind)
        return found

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self.guesses(row, text, limit).draft(limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        if row in self._last:
            self._last.pop(row).judge(verified.written, self._record)

    def _places(self, row: int, text: Sequence[int]) -> list[tuple[int, int]]:
        """Where the text's last tokens were followed by something, and how many of them match there."""
        self._index(row, text)
        seen = self._seen[row]
        places: dict[int, int] = {}
        for n in range(min(self.longest, len(text) - 1), self.shortest - 1, -1):
            for place in reversed(seen.get(tuple(text[-n:]), ())):
                if len(places) == self.occurrences:
                    return list(places.items())
                places.setdefault(place, n)
        return list(places.items())

    def _index(self, row: int, text: Sequence[int]) -> None:
        """Note what ends before each place that something follows."""
        seen = self._seen[row]
        for place in range(max(self._read[row], 1), len(text)):
            for n in range(self.shortest, min(self.longest, place) + 1):
                seen.setdefault(tuple(text[place - n : place]), []).append(place)
        self._read[row] = len(text)
