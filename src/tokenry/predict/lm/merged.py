"""Several ways of guessing in one draft tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tokenry.predict.lm.guesses import Guesses
from tokenry.predict.lm.proposer import Guesser, Verified
from tokenry.predict.lm.tree import Draft
from tokenry.tokens.errors import InputError


@dataclass(eq=False)
class Merged:
    """The likeliest guesses of several proposers, in one tree.

    Each proposer knows from its own record how likely its guesses are; a guess that several make counts as
    independent evidence. Token recycling knows what usually follows a token, prompt lookup what followed in this text.

    Attributes:
        guessers: the proposers; none looks at hidden states.
    """

    guessers: Sequence[Guesser]
    hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.guessers or any(guesser.hidden for guesser in self.guessers):
            raise InputError("Merge at least one proposer, and none that needs hidden states.")

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Tensor] | None = None) -> None:
        """See `Proposer.begin`."""
        for guesser in self.guessers:
            guesser.begin(prompts, None)

    def guesses(self, row: int, text: Sequence[int], limit: int) -> Guesses:
        """See `Guesser.guesses`."""
        return Guesses.merged([guesser.guesses(row, text, limit) for guesser in self.guessers])

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self.guesses(row, text, limit).draft(limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        for guesser in self.guessers:
            guesser.learn(row, verified)
