"""Language models over bytes: what each can do once it gives the distribution of the next byte."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from tokenry.predict.lm.byte_probabilities.covers import END
from tokenry.tokens.errors import InputError


class ByteLMState(ABC):
    """A language model over bytes after some of them."""

    @property
    @abstractmethod
    def log_probs(self) -> Float[np.ndarray, "257"]:
        """Log-probability of each next byte, and at 256 of the end (nats)."""

    @abstractmethod
    def step(self, byte: int) -> ByteLMState:
        """The state after one more byte."""


class ByteLM(ABC):
    """A language model over bytes: draws texts byte by byte and scores them, from the states that it gives."""

    @abstractmethod
    def states(self, prompts: Sequence[bytes | str]) -> Sequence[ByteLMState]:
        """The model after each of several prompts."""

    @abstractmethod
    def evaluate(self, states: Sequence[ByteLMState]) -> None:
        """Prepare the next distributions of several states together."""

    def sample(
        self,
        prompt: bytes | str = b"",
        max_bytes: int = 100,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> bytes:
        """Draw what follows a prompt, byte by byte, until the text ends.

        Args:
            prompt: bytes or text; it may end inside a token or a character.
            max_bytes: at most so many bytes.
            temperature: of the distribution over bytes; 0 takes the likeliest byte.
            top_p: share of the likeliest bytes to draw from.
            seed: of the draw; random without it.
            generator: to draw with, instead of a seed.
        """
        return self.sample_batch(
            [prompt], max_bytes, temperature=temperature, top_p=top_p, seed=seed, generator=generator
        )[0]

    def sample_batch(
        self,
        prompts: Sequence[bytes | str],
        max_bytes: int = 100,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> list[bytes]:
        """Draw what follows each of several prompts, one forward pass a byte for all of them; see `sample`.

        With a seed, a prompt's text does not depend on the other prompts.
        """
        check(max_bytes, temperature, top_p)
        states = list(self.states(prompts))
        return self.draw(states, max_bytes, temperature, top_p, generators(len(states), seed, generator))

    def draw(
        self,
        states: Sequence[ByteLMState],
        max_bytes: int,
        temperature: float,
        top_p: float,
        generators: Sequence[torch.Generator],
    ) -> list[bytes]:
        """Continue several states until each text ends; see `sample`."""
        texts = [bytearray() for _ in states]
        live = dict(enumerate(states))
        for _ in range(max_bytes):
            if not live:
                break
            self.evaluate(list(live.values()))
            for row, state in list(live.items()):
                byte = _pick(state.log_probs, temperature, top_p, generators[row])
                if byte == END:
                    del live[row]
                else:
                    texts[row].append(byte)
                    live[row] = state.step(byte)
        return [bytes(text) for text in texts]

    def log_probs(self, text: bytes | str, prompt: bytes | str = b"") -> Float[np.ndarray, " n"]:
        """Log-probability of each byte of a text, given the prompt and the bytes before it (nats)."""
        state = self.states([prompt])[0]
        found = []
        for byte in text if isinstance(text, bytes) else text.encode():
            found.append(state.log_probs[byte])
            state = state.step(byte)
        return np.array(found)

    def log_prob(self, text: bytes | str, prompt: bytes | str = b"") -> float:
        """Log-probability of a text after a prompt: the sum of its bytes' (nats)."""
        return float(self.log_probs(text, prompt).sum())


def check(max_bytes: int, temperature: float, top_p: float) -> None:
    """Refuse settings of a draw that mean nothing."""
    if max_bytes < 0:
        raise InputError(f"max_bytes={max_bytes}: a text cannot have fewer than 0 bytes.")
    if not temperature >= 0:
        raise InputError(f"temperature={temperature}: it has to be 0 (the likeliest byte) or more.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p}: it is a share, above 0 and at most 1.")


def generators(rows: int, seed: int | None, generator: torch.Generator | None) -> list[torch.Generator]:
    """A generator for each row: one shared, or each its own from the same seed."""
    if generator is not None:
        if seed is not None:
            raise InputError("Give a seed or a generator, not both.")
        return [generator] * rows
    if seed is None:
        seed = int(torch.randint(2**31, ()))
    return [torch.Generator().manual_seed(seed) for _ in range(rows)]


def _pick(
    log_probs: Float[np.ndarray, "257"], temperature: float, top_p: float, generator: torch.Generator
) -> int:
    if temperature == 0:
        return int(log_probs.argmax())
    scaled = log_probs / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    if top_p < 1:
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= top_p]] = 0
    # One uniform number a byte: the same draw whatever else the generator's algorithm would do with the weights.
    point = float(torch.rand((), generator=generator, dtype=torch.float64)) * probs.sum()
    return int(min(np.searchsorted(np.cumsum(probs), point, side="right"), np.flatnonzero(probs)[-1]))
