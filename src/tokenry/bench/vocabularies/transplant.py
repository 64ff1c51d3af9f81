"""What a transplant needs, by name, and what it cost: shared by the command and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenry.data.text.sources import gather
from tokenry.models.load import load
from tokenry.text.measure import bits_per_byte
from tokenry.text.transplant import Donor
from tokenry.text.zett.network import is_tied
from tokenry.tokens.errors import InputError


def load_donor(model: str) -> Donor:
    """The rows of a model that owns the new tokenizer.

    Raises:
        InputError: see `tokenry.models.load.load`.
    """
    loaded, _ = load(model, reads="text")
    head = None if is_tied(loaded) else loaded.get_output_embeddings().weight.detach()
    return Donor(loaded.get_input_embeddings().weight.detach(), head)


def texts_of(sources: Sequence[str] | None, limit: int) -> tuple[str, ...]:
    """The documents of files, folders and named corpora; none if nothing is named.

    Args:
        sources: see `tokenry.data.text.sources.gather`.
        limit: bytes of each corpus that are used.
    """
    if not sources:
        return ()
    return tuple(text for one in gather(sources, limit=limit) for text in one.documents)


def bits(model: Any, tokenizer: Any, texts: Sequence[str]) -> float | None:
    """Bits per byte of a causal language model; None without texts.

    Raises:
        InputError: the model predicts no next tokens, so that the figure is not defined.
    """
    if not texts:
        return None
    if not model.can_generate():
        raise InputError(
            f"{type(model).__name__} does not predict next tokens, so it has no bits per byte: leave --text out."
        )
    return bits_per_byte(model, tokenizer, texts)


def changes_text(tokenizer: Any, texts: Sequence[str]) -> bool:
    """Whether a tokenizer reads something else than these texts (lower-cased, without accents, line breaks as spaces).

    A model then predicts less than the text, and its bits per byte are not those of a model that predicts all of it.
    SentencePiece's signs for spaces are no change.

    Args:
        tokenizer: a fast tokenizer.
        texts: what it is measured on.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    if normalizer is None:
        return False
    read = (normalizer.normalize_str(text).replace("\u2581", " ").strip() for text in texts)
    return any(one != text.strip() for one, text in zip(read, texts, strict=True))
