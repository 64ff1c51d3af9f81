"""Mixing language models with different vocabularies, byte by byte (arXiv 2410.09303)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from tokenry.predict.lm.byte_probabilities.base import ByteLM, ByteLMState
from tokenry.tokens.errors import InputError


def ensemble(models: Sequence[ByteLM], weights: Sequence[float] | None = None) -> ByteEnsemble:
    """The weighted mean of several byte models' next-byte probabilities, as a model of bytes.

    Args:
        models: byte models (`byte_model`), whatever their vocabularies.
        weights: of the models, in any unit; equal by default.

    Raises:
        InputError: no models, or weights that are not theirs.
    """
    if not models:
        raise InputError("An ensemble needs at least one model.")
    shares = np.ones(len(models)) if weights is None else np.array(weights, float)
    if shares.shape != (len(models),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
        raise InputError(
            f"weights={weights}: {len(models)} numbers of at least 0 are needed, not all of them 0."
        )
    return ByteEnsemble(tuple(models), shares / shares.sum())


@dataclass(frozen=True, eq=False)
class ByteEnsemble(ByteLM):
    """The weighted mean of models of bytes. Make one with `ensemble`.

    By Jensen's inequality its bits per byte are at most the weighted mean of theirs, on every byte of every text.

    Attributes:
        models: its members.
        weights: theirs; they sum to 1.
    """

    models: tuple[ByteLM, ...]
    weights: Float[np.ndarray, " k"]

    def state(self, prompt: bytes | str = b"") -> EnsembleState:
        """The ensemble after a prompt."""
        return self.states([prompt])[0]

    def states(self, prompts: Sequence[bytes | str]) -> list[EnsembleState]:
        """The ensemble after each of several prompts."""
        members = [model.states(prompts) for model in self.models]
        return [EnsembleState(self, tuple(row)) for row in zip(*members, strict=True)]

    def log_probs(self, text: bytes | str, prompt: bytes | str = b"") -> Float[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prompt and the bytes before it (nats)."""
        return self.mean(np.stack([model.log_probs(text, prompt) for model in self.models]))

    def mean(self, log_probs: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " n"]:
        """Log of the weighted mean of the members' probabilities, given their logarithms."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.logaddexp.reduce(np.log(self.weights)[:, None] + log_probs, axis=0))

    def evaluate(self, states: Sequence[ByteLMState]) -> None:
        """Prepare the next distributions of several states together."""
        own = [state for state in states if isinstance(state, EnsembleState)]
        for k, model in enumerate(self.models):
            model.evaluate([state.members[k] for state in own])


@dataclass(frozen=True, eq=False)
class EnsembleState(ByteLMState):
    """An ensemble after some bytes.

    Attributes:
        of: the ensemble.
        members: the states of its models.
    """

    of: ByteEnsemble
    members: tuple[ByteLMState, ...]

    @cached_property
    def log_probs(self) -> Float[np.ndarray, "257"]:
        """Log-probability of each next byte, and at 256 of the end (nats)."""
        return self.of.mean(np.stack([member.log_probs for member in self.members]))

    def step(self, byte: int) -> EnsembleState:
        """The state after one more byte."""
        return EnsembleState(self.of, tuple(member.step(byte) for member in self.members))
