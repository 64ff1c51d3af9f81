"""What drafts text: the interface of every way of guessing ahead, and what it is told about how it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.predict.lm.acceptance import Accepted
from tokenry.predict.lm.guesses import Guesses
from tokenry.predict.lm.sizing import Sizing
from tokenry.predict.lm.tree import Draft


@dataclass(frozen=True, eq=False)
class Verified:
    """One forward pass over a draft, and what became of it.

    Attributes:
        draft: what was judged.
        logits: at every node, as the model gave them.
        accepted: the path that was kept, and the token behind it.
        probes: logits at every probe of the draft.
        hidden: what entered the model's output layer at every node, if the proposer wants it.
    """

    draft: Draft
    logits: Float[Tensor, "n v"]
    accepted: Accepted
    probes: Float[Tensor, "p v"] | None = None
    hidden: Float[Tensor, "n d"] | None = None

    @property
    def written(self) -> list[int]:
        """What the pass wrote behind the root."""
        return [int(self.draft.tokens[node]) for node in self.accepted.path[1:]] + [self.accepted.token]


@runtime_checkable
class Proposer(Protocol):
    """Guesses ahead for the rows of a batch.

    A proposer may keep what it has learned from one text to the next; `begin` says that new texts start.
    """

    @property
    def hidden(self) -> bool:
        """Whether it wants to see the model's last hidden states."""
        ...

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Sequence[Float[Tensor, "s d"]] | None) -> None:
        """New texts, whose prompts the model has read.

        Args:
            prompts: one a row, without padding.
            hidden: for a proposer that wants them, what entered the output layer at every token of each prompt.
        """
        ...

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """Guess how a text goes on.

        Args:
            row: which text.
            text: prompt and everything written so far; its last token is the draft's root.
            limit: most rows beside the root, probes included; nodes that promise more come first, and parents before
                their children.
        """
        ...

    def learn(self, row: int, verified: Verified) -> None:
        """See what the model made of a draft."""
        ...


@runtime_checkable
class NamedProposer(Proposer, Protocol):
    """A proposer that can be asked for by name: it knows how to be made for a model."""

    @classmethod
    def for_model(cls, model: PreTrainedModel) -> Self:
        """The proposer for a model, as it is by default.

        Raises:
            UnsupportedError: it needs weights that were trained for the model, and there are none; the message says
                how to make some.
        """
        ...


@runtime_checkable
class WarmProposer(Proposer, Protocol):
    """A proposer that learns from texts, and can be given a start from what the model itself knows."""

    def warm_up(self, model: PreTrainedModel, folder: Path | None = None) -> None:
        """Ask the model beforehand what it learns from texts otherwise.

        Args:
            model: whose texts will be drafted.
            folder: what was found is read from there, or found and kept there.

        Raises:
            InputError: the folder holds something else, or what was found with another model.
        """
        ...


@runtime_checkable
class Guesser(Proposer, Protocol):
    """A proposer whose guesses can be merged with those of others."""

    def guesses(self, row: int, text: Sequence[int], limit: int) -> Guesses:
        """What `propose` makes a draft of."""
        ...


@runtime_checkable
class SizedProposer(Proposer, Protocol):
    """A proposer that plans whole passes, and so knows best how large they should be."""

    def sizing(self, latency: Mapping[int, float]) -> Sizing:
        """The sizes for a machine.

        Args:
            latency: rows of a pass -> time, in units of a pass over one row.
        """
        ...
