"""Loading a model and its processor by name: a folder, a hub id, or the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from tokenry.tokens import InputError

EMBEDDED = "embedded"
"""The name of the small model that comes with tokenry."""
_KINDS = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
)
"""Kinds of models that write text, those that read pictures first."""


def load_model(
    name: str | Path, *, dtype: torch.dtype | None = None, attn: str = "sdpa", device: str = "cpu"
) -> tuple[PreTrainedModel, Any]:
    """A vision-language model and its processor, ready to run.

    Args:
        name: "embedded", a folder that `from_pretrained` reads, or a hub id.
        dtype: of the weights; by default the checkpoint's (the embedded model: float32).
        attn: attention implementation: "sdpa", "eager" or "flash_attention_2".
        device: where to put it.

    Raises:
        InputError: there is no such folder, model or device, or it is not one that answers questions about pictures.
    """
    require_device(device)
    if str(name) == EMBEDDED:
        from tokenry.models import load_embedded

        model, processor = load_embedded(dtype=dtype or torch.float32)
        model.set_attn_implementation(attn)
        return model.to(device).eval(), processor
    try:
        config = AutoConfig.from_pretrained(name)
        kind = auto_class(config)
        model = kind.from_pretrained(name, dtype=dtype or "auto", attn_implementation=attn)
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        where = "folder" if Path(name).exists() else "folder or hub id"
        raise InputError(
            f"Cannot load a model from {where} {str(name)!r}: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device).eval(), processor


def require_device(device: str) -> None:
    """Refuse a device that this machine does not have, before anything is loaded for it.

    Raises:
        InputError: with what torch says of it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # which one depends on how torch was built
        reason = str(error).splitlines()[0]
        raise InputError(f"Cannot use the device {device!r}: {reason}. Use 'cpu', or another one.") from error


def auto_class(config: PreTrainedConfig) -> Any:
    """The auto class of transformers that makes the model a configuration was saved with.

    Some configurations stand for several (Emu3's for one that reads pictures and one that does not): then what
    `architectures` names counts, and failing that what reads pictures.

    Raises:
        InputError: no model with this configuration writes text.
    """
    kind = type(config)
    possible = {auto: mapping[kind] for auto, mapping in _KINDS if kind in mapping}
    if not possible:
        raise InputError(
            f"As far as transformers knows, a model with a {kind.__name__} writes no text, so it answers no questions."
        )
    saved = config.architectures or []
    return next((auto for auto, model in possible.items() if model.__name__ in saved), next(iter(possible)))
