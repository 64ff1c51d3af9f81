"""Texts that would come out as impossible, and are not: by what their probability was lost."""

from __future__ import annotations

from tokenry.predict.lm.byte_probabilities.covers import Covers
from tokenry.predict.lm.byte_probabilities.shapes import split_partial
from tokenry.predict.lm.byte_probabilities.validity import ValidityContext
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, TokenryError, UnsupportedError


def refuse_impossible(text: bytes, vocab: ByteVocab, covers: Covers) -> None:
    """Refuse to call a text impossible that is not so by the language model's account.

    Args:
        text: of which there is no cover with any probability.
        vocab: of the language model.
        covers: which of them were to be kept.

    Raises:
        InputError: what the tokenizer has no tokens for.
        UnsupportedError: a text that it has tokens for, of which there is nothing left.
    """
    context = ValidityContext()
    text, _ = split_partial(text)
    tokens = vocab.encode(text)
    for i, token in enumerate(tokens):
        if not covers.validity.mask(context)[token]:
            raise _unknown_to_rules(text, vocab.decode(tokens[:i]), vocab.decode([token]))
        context = covers.validity.extend(context, token)
    if covers.min_log_mass is not None or covers.max_groups is not None:
        raise UnsupportedError(
            f"All covers of {text[-30:]!r} were dropped on the way (min_log_mass={covers.min_log_mass}, max_groups="
            f"{covers.max_groups}), so it would come out as impossible. Allow for more, or leave the options off."
        )


def _unknown_to_rules(text: bytes, before: bytes, token: bytes) -> TokenryError:
    try:
        text.decode()
    except UnicodeDecodeError:
        return InputError(
            f"{text[-30:]!r} is not UTF-8: after {before[-20:]!r}, {token!r} is a token of no text, so it has no "
            "probability. Decode the bytes first, with errors='replace' if need be."
        )
    return UnsupportedError(
        f"The tokenizer gives {token!r} after {before[-20:]!r}, which the rules for exact byte probabilities do not "
        "know, so this text would come out as impossible. Please report the tokenizer's splitting pattern; until then "
        "score texts by their tokens (tokenry.text.measure)."
    )
