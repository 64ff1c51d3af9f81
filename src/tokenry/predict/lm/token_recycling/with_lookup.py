"""Token Recycling and prompt lookup in one draft tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformers import PreTrainedModel

from tokenry.predict.lm.merged import Merged
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.token_recycling.proposer import TokenRecycling


@dataclass(eq=False)
class RecyclingWithLookup(Merged):
    """Two ways of guessing without training, merged: what usually follows a token, and what did in this text."""

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """See `NamedProposer.for_model`."""
        return cls((PromptLookup.for_model(model), TokenRecycling.for_model(model)))

    def warm_up(self, model: PreTrainedModel, folder: Path | None = None) -> None:
        """See `WarmProposer.warm_up`: of token recycling; lookup learns nothing beforehand."""
        for guesser in self.guessers:
            if isinstance(guesser, TokenRecycling):
                guesser.warm_up(model, folder)
