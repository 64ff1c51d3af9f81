"""What a token generator is: a network that writes the codes of pictures, for a decoder of a codec to show."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.tokens.codes import Codes, Latents


class TokenGenerator(PreTrainedModel, ABC):
    """Generator of a codec's tokens: one after another, masked and filled in, or out of noise.

    It learns from the codes of one codec and writes codes that carry that codec's fingerprint. All lots are drawn from
    the generator that is handed in. What all of them hold to is in ``tests/laws/generators``.
    """

    @abstractmethod
    def loss(
        self, codes: Codes | Latents, condition: Tensor | None, *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A training loss, and named scalars to show.

        Args:
            codes: of pictures, by the codec that it is made for.
            condition: what the pictures show, a row for each: numbers of classes, or vectors; None: nothing is told.
            generator: draws noise, masks, and the rows that are trained without their condition.

        Raises:
            InputError: codes of another codec, or conditions that it does not take.
        """

    @abstractmethod
    def generate(
        self,
        condition: Tensor,
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator,
    ) -> Codes | Latents:
        """Codes of new pictures, one for each row of the condition.

        Args:
            condition: see `loss`.
            steps: passes through the network; None: its own number. One that writes token by token writes that many.
            guidance: w of ``unconditional + w (conditional - unconditional)``; 1 leaves the condition as it is, and
                costs nothing.
            temperature: of what is drawn; 0 takes the likeliest.
            generator: draws.

        Raises:
            InputError: conditions or numbers that it does not take.
        """


def guided(
    conditional: Float[Tensor, "*b d"], unconditional: Float[Tensor, "*b d"], weight: float
) -> Float[Tensor, "*b d"]:
    """Classifier-free guidance: ``u + w (c - u)``. 1 is the condition alone, 0 none, more goes beyond it."""
    return unconditional + weight * (conditional - unconditional)


def draw(logits: Float[Tensor, "*b k"], temperature: float, generator: torch.Generator) -> Int[Tensor, "*b"]:
    """One number of each row, in proportion to ``exp(logits / temperature)``; at 0 the likeliest.

    The lots are drawn where the generator is, so that they are the same on every device.
    """
    if temperature == 0:
        return logits.argmax(-1)
    noise = torch.empty(logits.shape, device=generator.device).exponential_(generator=generator)
    return (logits.float() / temperature - noise.to(logits.device).log()).argmax(-1)
