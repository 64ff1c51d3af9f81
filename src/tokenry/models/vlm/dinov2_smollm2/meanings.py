"""What words mean to a language model a few layers in: what a projector is first trained towards.

A language model looks its words up in a table, and its first blocks turn them into something else: of SmolLM2's states
behind three blocks, seen from their mean, .04 (cosine) is left of the word's embedding, and they are thirty times as
long. Visual tokens that are brought to these states are read by the blocks behind as words are. Visual tokens brought
to the table itself would be read, too, but then their similarity to embeddings, by which some methods select, would be
what was trained for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenry.tokens.errors import InputError

_THINGS: Final = ("there is a {}", "what can be seen here: a {}", "I saw one {}")
_PLACES: Final = ("it is at the {}", "what is at the {}", "look at the {}")


@dataclass(frozen=True, eq=False)
class Meanings:
    """States of a language model behind some of its blocks.

    Attributes:
        common: what those of all things have in common.
        things: of each thing, seen from there.
        places: of each place, seen from the mean of all places.
    """

    common: Float[Tensor, " d"]
    things: Float[Tensor, "things d"]
    places: Float[Tensor, "places d"]


@torch.no_grad()
def meanings(
    decoder: Any,
    encode: Callable[[str], Sequence[int]],
    things: Sequence[str],
    places: Sequence[str],
    layer: int,
) -> Meanings:
    """The states of words at the end of short texts, averaged over the texts.

    Args:
        decoder: a language model without its head.
        encode: a text's ids, with what begins a text.
        things, places: words.
        layer: how many blocks lie before.

    Raises:
        InputError: the language model has fewer blocks.
    """
    blocks = decoder.config.num_hidden_layers
    if not 0 <= layer < blocks:
        raise InputError(
            f"The layer whose states words are looked up in is given by the blocks before it, from 0 to {blocks - 1} "
            f"in this language model, got {layer}."
        )

    def of(words: Sequence[str], texts: Sequence[str]) -> Float[Tensor, "words d"]:
        states = []
        for word in words:
            ends = []
            for text in texts:
                ids = torch.tensor([list(encode(text.format(word)))])
                ends.append(decoder(input_ids=ids, output_hidden_states=True).hidden_states[layer][0, -1])
            states.append(torch.stack(ends).float().mean(0))
        return torch.stack(states)

    found, where = of(things, _THINGS), of(places, _PLACES)
    common = found.mean(0)
    return Meanings(common, found - common, where - where.mean(0))
