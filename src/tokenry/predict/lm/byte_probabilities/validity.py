"""Which tokens may follow which, for a token sequence to be the beginning of what the tokenizer gives for some text.

A sequence t is *viable* if ``encode(decode(t) + y)`` begins with t for some y, where y completes the character that t
ends inside, if it does. Arithmetic over covers needs this, not
``encode(decode(t)) == t``, as soon as the pre-tokenizer looks ahead: GPT-2's gives "Hi\\n\\nYou" as Hi, \\n, \\n, You,
but "Hi\\n\\n" alone as Hi, \\n\\n. With the stricter definition, an everyday text would have no cover at all after its
second line break. Where nothing looks ahead (plain BPE inside one pre-token) the two are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from tokenry.text.vocabulary import ByteVocab


@dataclass(frozen=True)
class ValidityContext:
    """All that validity can depend on of the tokens so far.

    Attributes:
        text: bytes from the last place where the pre-tokenizer splits whatever follows.
        edges: ends of tokens inside it, counted from its end.
        joins: those of them at which the two tokens would merge if no pre-token ended there.
        last: last token, -1 at the beginning.
        final: whether the text may end here.
    """

    text: bytes = b""
    edges: tuple[int, ...] = ()
    joins: tuple[int, ...] = ()
    last: int = -1
    final: bool = True


class Validity(ABC):
    """Which tokens may follow a context."""

    @abstractmethod
    def extend(self, context: ValidityContext, token: int) -> ValidityContext:
        """The context after one more token."""

    @abstractmethod
    def mask(self, context: ValidityContext) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""

    @abstractmethod
    def boundary(self, data: bytes) -> int:
        """A place in a text where tokens end in every encoding of every text that starts so."""


class Anything(Validity):
    """No rules: every way of cutting a text into tokens counts. What sampling tokens amounts to."""

    def __init__(self, vocab: ByteVocab) -> None:
        self._all = np.array([data is not None for data in vocab.token_bytes], bool)

    def extend(self, context: ValidityContext, token: int) -> ValidityContext:
        """The context after one more token."""
        return ValidityContext(last=token)

    def mask(self, context: ValidityContext) -> Bool[np.ndarray, " v"]:
        """Whether each token of the vocabulary may follow."""
        return self._all

    def boundary(self, data: bytes) -> int:
        """There is none but the beginning."""
        return 0
