"""Loading what a transplant needs by name, and measuring what it cost: shared by the command and the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenry.data.sources import gather
from tokenry.models.pretrained import minilm_folder, smollm2_folder
from tokenry.text.measure import bits_per_byte
from tokenry.text.transplant import Donor
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError


def load_language_model(model: str, target: str, *, dtype: str = "auto") -> tuple[Any, Any, Any]:
    """A model, its tokenizer, and the tokenizer that it is to get.

    Args:
        model: folder of a causal or masked language model or an encoder, or "smollm2".
        target: folder of a tokenizer, or "minilm" or "smollm2".
        dtype: of the weights; "auto" is what the folder says.

    Raises:
        InputError: no folder, no tokenizer in it, or no model.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    new = load_tokenizer(_folder(target))
    folder = _folder(model)
    tokenizer = load_tokenizer(folder)
    try:
        heads = AutoConfig.from_pretrained(folder, local_files_only=True).architectures or [""]
        auto = next(
            (
                auto
                for ending, auto in (
                    ("ForCausalLM", AutoModelForCausalLM),
                    ("ForMaskedLM", AutoModelForMaskedLM),
                )
                if heads[0].endswith((ending, "LMHeadModel") if ending == "ForCausalLM" else ending)
            ),
            AutoModel,
        )
        loaded = auto.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{model} holds no model that transformers can load: {str(error).splitlines()[0]}"
        ) from error
    return loaded.eval(), tokenizer, new


def load_donor(model: str) -> Donor:
    """The rows of a model that owns the new tokenizer.

    Raises:
        InputError: see `load_language_model`.
    """
    loaded, _, _ = load_language_model(model, model)
    rows = loaded.get_input_embeddings().weight
    head = loaded.get_output_embeddings()
    tied = head is None or head.weight is rows
    return Donor(rows.detach(), None if tied else head.weight.detach())


def texts_of(sources: Sequence[str] | None, limit: int) -> tuple[str, ...]:
    """The documents of files, folders and named corpora; none if nothing is named.

    Args:
        sources: see `tokenry.data.sources.gather`.
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


def _folder(name: str) -> Path:
    known = {"smollm2": smollm2_folder, "minilm": minilm_folder}
    if name in known:
        return known[name]()
    if not Path(name).exists():
        raise InputError(f"There is no folder {name}; {' and '.join(known)} are known by name.")
    return Path(name)
