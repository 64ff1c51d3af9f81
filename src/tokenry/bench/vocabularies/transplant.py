"""Loading what a transplant needs by name, and measuring what it cost: shared by the command and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenry.data.text.sources import gather
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.pretrained import model_folder
from tokenry.text.measure import bits_per_byte
from tokenry.text.transplant import Donor
from tokenry.text.vocabulary import load_tokenizer
from tokenry.text.zett.network import is_tied
from tokenry.tokens.errors import InputError


def load_language_model(
    model: str, *, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A model with the head that its configuration names, in evaluation mode, and its tokenizer.

    Args:
        model: folder of a causal or masked language model or an encoder, or "smollm2" or "minilm".
        dtype: of the weights; "auto" is what the folder says.
        trust_remote_code: whether Python code that lies in the folder may be run.

    Raises:
        InputError: no folder, no tokenizer in it, or no model, or one that is damaged, incomplete, or in pickles.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    folder = model_folder(model)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    heads = {
        "ForCausalLM": AutoModelForCausalLM,
        "LMHeadModel": AutoModelForCausalLM,
        "ForMaskedLM": AutoModelForMaskedLM,
    }
    source = Checkpoint(str(folder), trust_remote_code=trust_remote_code)
    named = source.config().architectures or [""]
    auto = next((auto for ending, auto in heads.items() if named[0].endswith(ending)), AutoModel)
    return source.model(auto, dtype=dtype), tokenizer


def load_donor(model: str) -> Donor:
    """The rows of a model that owns the new tokenizer.

    Raises:
        InputError: see `load_language_model`.
    """
    loaded, _ = load_language_model(model)
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
