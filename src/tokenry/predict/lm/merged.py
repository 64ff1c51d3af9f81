"""Several ways of guessing in one draft tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from torch import Tensor

from tokenry.predict.lm.guesses import Guesses, TrackRecord
from tokenry.predict.lm.proposer import Guesser, Verified
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError

_STEPS: Final = 20
"""Between impossible and certain, within which merged guesses are counted together."""


@dataclass(eq=False)
class Merged:
    """The likeliest guesses of several proposers, in one tree.

    Each proposer knows from its own record how likely its guesses are; a guess that several make counts as
    independent evidence. That it is not quite independent shows in what becomes of the merged guesses, which is counted
    too. Token recycling knows what usually follows a token, prompt lookup what followed in this text.

    Attributes:
        guessers: the proposers; none looks at hidden states.
    """

    guessers: Sequence[Guesser]
    hidden: ClassVar[bool] = False
    _record: TrackRecord = field(init=False, repr=False)
    _last: dict[int, Guesses] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.guessers or any(guesser.hidden for guesser in self.guessers):
            raise InputError("Merge at least one proposer, and none that needs hidden states.")
        self._record = TrackRecord((np.arange(_STEPS) + 0.5) / _STEPS, weight=20.0)

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`."""
        self._last.clear()
        for guesser in self.guessers:
            guesser.begin(prompts, None)

    def guesses(self, row: int, text: Sequence[int], limit: int) -> Guesses:
        """See `Guesser.guesses`."""
        found = Guesses.merged([guesser.guesses(row, text, limit) for guesser in self.guessers])
        found.correct(self._record)
        self._last[row] = found
        return found

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self.guesses(row, text, limit).draft(limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        for guesser in self.guessers:
            guesser.learn(row, verified)
        if row in self._last:
            self._last.pop(row).judge(verified.written, self._record)
