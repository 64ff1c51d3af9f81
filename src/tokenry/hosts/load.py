"""Loading a model and its processor by name: a folder, a hub id, or the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from tokenry.tokens import InputError

EMBEDDED = "embedded"
"""The name of the small model that comes with tokenry."""


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
        InputError: there is no such folder or model, or it is not one that answers questions about pictures.
    """
    if str(name) == EMBEDDED:
        from tokenry.models import load_embedded

        model, processor = load_embedded(dtype=dtype or torch.float32)
        model.set_attn_implementation(attn)
        return model.to(device).eval(), processor
    try:
        config = AutoConfig.from_pretrained(name)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        model = kind.from_pretrained(name, dtype=dtype or "auto", attn_implementation=attn)
        processor = AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        where = "folder" if Path(name).exists() else "folder or hub id"
        raise InputError(
            f"Cannot load a model from {where} {str(name)!r}: {str(error).splitlines()[0]}"
        ) from error
    return model.to(device).eval(), processor
