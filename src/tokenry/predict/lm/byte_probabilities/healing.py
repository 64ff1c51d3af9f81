"""What is done without exact byte probabilities: going on from the prompt's tokens, and token healing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tokenry.predict.lm.byte_probabilities.base import ByteLM, ByteLMState
from tokenry.predict.lm.byte_probabilities.byte_model import ByteModel
from tokenry.predict.lm.byte_probabilities.state import ByteState
from tokenry.predict.lm.byte_probabilities.validity import Anything
from tokenry.tokens.errors import InputError


class TokenContinuation(ByteLM):
    """The distribution over bytes of a language model that goes on from the tokens of a prompt.

    Whatever tokens it would then give count, in every way to cut the bytes: this is the distribution of ordinary token
    sampling, seen byte by byte. The number of ways doubles with every byte, so it is meant for a few bytes, as a
    baseline.

    Args:
        model: the byte model to be compared with.
        prompt_end: "as it is": the prompt's tokens are certain. "healed": the last of them is taken off, and the next
            token has to start with its bytes (token healing).
        max_groups: keep at most so many groups of covers.
    """

    def __init__(
        self,
        model: ByteModel,
        prompt_end: Literal["as it is", "healed"] = "as it is",
        max_groups: int | None = None,
    ) -> None:
        if prompt_end not in ("as it is", "healed"):
            raise InputError(f"prompt_end={prompt_end!r}: it is 'as it is' or 'healed'.")
        model.check_unchanged()
        self.healed = prompt_end == "healed"
        self.free = ByteModel(
            model.lm,
            model.vocab,
            Anything(model.vocab),
            max_groups=max_groups,
            stops=model.stops,
            context=model.context,
        )

    def states(self, prompts: Sequence[bytes | str]) -> list[ByteState]:
        """The model after each of several prompts."""
        tokens = [self.free.vocab.encode(self.free.stream(prompt)) for prompt in prompts]
        kept = [ids[:-1] if self.healed else ids for ids in tokens]
        states = self.free.begin(kept)
        if not self.healed:
            return states
        last = [self.free.vocab.decode(ids[-1:]) for ids in tokens]
        return [state.within_one_token(data) for state, data in zip(states, last, strict=True)]

    def evaluate(self, states: Sequence[ByteLMState]) -> None:
        """Prepare the next distributions of several states together."""
        self.free.evaluate(states)
