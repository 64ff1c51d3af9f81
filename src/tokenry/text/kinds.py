"""The kinds of vocabulary that can be trained, by name. A new kind is one function and its card."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerFast

from tokenry.catalog.registry import Registry


@runtime_checkable
class Trainer(Protocol):
    """What trains a vocabulary: a function of texts and size, whose options are given by name."""

    def __call__(self, texts: Iterable[str], size: int, **options: Any) -> PreTrainedTokenizerFast:
        """Train a tokenizer of `size` entries."""
        ...


TRAINERS: Final = Registry[Trainer]("tokenizer", Trainer, "kind of vocabulary")
"""Every kind, by name; other packages register theirs in the entry-point group "tokenry.tokenizers"."""


def train(kind: str, texts: Iterable[str], size: int, **options: Any) -> PreTrainedTokenizerFast:
    """Train a vocabulary of a kind: ``train("bpe", texts, 16_000)``.

    Args:
        kind: a name of `TRAINERS`.
        texts: documents.
        size: entries of the vocabulary.
        **options: of the kind's own trainer.

    Returns:
        A tokenizer that `save_tokenizer` writes and `AutoTokenizer` loads.

    Raises:
        UnknownNameError: no such kind.
        TokenryError: texts or options that the kind cannot be trained with.
    """
    made: PreTrainedTokenizerFast = TRAINERS.make(kind, texts, size, **options)
    return made
