"""Filling in the middle of a text, where the text before it may end inside a token (arXiv 2410.09303)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import UnsupportedError

#: How model families name their tokens: before the prefix, before the suffix, before the middle.
NAMES = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, SmolLM
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>"),
)
#: Tokens that end the middle besides those that end every text.
_ENDS = ("▁<EOT>", "<EOT>", "<|endoftext|>", "<|fim_pad|>", "<file_sep>", "<|file_sep|>")

Order = Literal["psm", "spm"]


@dataclass(frozen=True)
class MiddleTokens:
    """The special tokens with which a model was taught to fill in the middle.

    Attributes:
        prefix, suffix, middle: what comes before each.
        ends: what comes after the middle.
    """

    prefix: int
    suffix: int
    middle: int
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, vocab: ByteVocab) -> MiddleTokens:
        """A vocabulary's, by their names.

        Raises:
            UnsupportedError: it has none.
        """
        ids = vocab.tokenizer.get_vocab()
        for prefix, suffix, middle in NAMES:
            if prefix in ids and suffix in ids and middle in ids:
                ends = tuple(ids[name] for name in _ENDS if name in ids)
                return cls(ids[prefix], ids[suffix], ids[middle], ends)
        raise UnsupportedError(
            "This model has no tokens for filling in the middle (such as <fim_prefix>, <fim_suffix>, <fim_middle>), so "
            "it was not taught to. Use a model that was, name its tokens (tokens=MiddleTokens(...)), or go on from the "
            "prefix alone with sample()."
        )

    def before(self, head: Sequence[int], tail: Sequence[int], order: Order) -> tuple[int, ...]:
        """The tokens before the middle.

        Args:
            head: tokens of the part of the prefix that is certain.
            tail: tokens of the suffix.
            order: "psm": prefix, suffix, middle; "spm": suffix, prefix and middle in one.
        """
        if order == "psm":
            return (self.prefix, *head, self.suffix, *tail, self.middle)
        return (self.prefix, self.suffix, *tail, self.middle, *head)
