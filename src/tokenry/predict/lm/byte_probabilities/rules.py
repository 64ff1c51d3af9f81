"""The rules of validity that a vocabulary follows."""

from __future__ import annotations

from tokenry.predict.lm.byte_probabilities.byte_level import ByteLevelValidity
from tokenry.predict.lm.byte_probabilities.pairs import PairValidity
from tokenry.predict.lm.byte_probabilities.sentencepiece import SentencePieceValidity
from tokenry.predict.lm.byte_probabilities.shapes import check_splitting
from tokenry.predict.lm.byte_probabilities.validity import Validity
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import UnsupportedError


def validity_of(vocab: ByteVocab) -> Validity:
    """The rules of a vocabulary.

    Raises:
        UnsupportedError: a tokenizer whose rules are not known (see `PairValidity`, `check_splitting`).
    """
    if vocab.normalizer:
        raise UnsupportedError(
            f"This tokenizer normalises text ({vocab.normalizer}), so the bytes it is given are not those it encodes; "
            "exact byte probabilities do not support it."
        )
    if vocab.kind == "sentencepiece":
        return SentencePieceValidity(vocab, PairValidity(vocab))
    pairs = PairValidity(vocab)  # refuses what is not BPE
    check_splitting(vocab)
    return ByteLevelValidity(vocab, pairs)
