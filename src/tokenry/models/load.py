"""Loading a model and its processor by name: a folder, a hub id, or the embedded default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from tokenry.hosts.checkpoints import NAMES, Checkpoint
from tokenry.hosts.wrappers import with_adapter
from tokenry.models.pretrained import model_folder
from tokenry.tokens import InputError
from tokenry.tokens.errors import gist

EMBEDDED = "embedded"
"""The name of the small model that comes with tokenry."""
_KINDS = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
    (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
)
"""Kinds of models that write text, those that read pictures first."""
_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes."""
_DISK = "disk"
"""What a device map calls weights that stay in their files until they are needed."""


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    attn: str = "sdpa",
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A vision-language model (with an adapter a `peft.PeftModel`) and its processor, ready to run.

    Weights are read from safetensors only, and every parameter must be there.

    Args:
        name: "embedded", a folder that `from_pretrained` reads, or a hub id.
        dtype: of the weights; by default the checkpoint's (the embedded model: float32).
        attn: attention implementation: "sdpa", "eager" or "flash_attention_2".
        device: where to put it; the CPU by default.
        device_map: instead of `device`, over which devices accelerate spreads it: "auto", "balanced", "sequential", or
            a device for each part by name.
        adapter: folder or hub id of an adapter of peft to put on it.
        trust_remote_code: whether Python code that lies beside the weights may be run.

    Raises:
        InputError: there is no such folder, model, adapter or device, it is damaged or incomplete, its weights are a
            pickle, it needs code of its own, or it is not one that answers questions about pictures.
        UnsupportedError: peft is needed and not installed.
    """
    placement = _placement(device, device_map)
    source = _source(name, trust_remote_code)
    # Found before the model is read, which may take minutes.
    around = None if adapter is None else Checkpoint.find(adapter, what="adapter").adapter()
    config = source.config()
    kind = auto_class(config)
    processor = source.processor()
    if isinstance(processor, PreTrainedTokenizerBase):
        raise InputError(
            f"The {source.place} holds a tokenizer and no processor of pictures, and what is asked here is about "
            f"pictures: a {type(config).__name__} is a language model's, so name a vision-language model."
        )
    if dtype is None and str(name) == EMBEDDED:
        dtype = torch.float32
    model = source.model(kind, dtype=dtype or "auto", attn_implementation=attn, **placement)
    if around is not None:
        model = with_adapter(model, around)
    return (model if placement else model.to(device or "cpu")).eval(), processor


def _source(name: str | Path, trust_remote_code: bool) -> Checkpoint:
    if str(name) == EMBEDDED:
        from tokenry.models.vlm.embedded.model import require_weights

        return Checkpoint(str(require_weights()))
    if str(name) in NAMES:
        return Checkpoint(str(model_folder(name)))
    return Checkpoint.find(name, trust_remote_code=trust_remote_code)


def _placement(device: str | None, device_map: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """What `from_pretrained` is told of devices; nothing where the model is read to the CPU and moved as a whole."""
    if device_map is None:
        require_device("cpu" if device is None else device)
        return {}
    if device is not None:
        raise InputError(
            f"A device ({device!r}) puts the whole model there, and a device map ({device_map!r}) spreads it: give one "
            "of them."
        )
    if isinstance(device_map, str):
        if device_map not in _SPREADING:
            require_device(device_map)
        return {"device_map": device_map}
    if not device_map:
        raise InputError(
            f"The device map {device_map} puts nothing anywhere: write 'auto', or {{'': 'cpu'}}."
        )
    if "" in device_map and _DISK in device_map.values():
        raise InputError(
            f"The device map {dict(device_map)} has a rest ('') and parts on disk, which accelerate does not combine: "
            "name every part."
        )
    for place in device_map.values():
        if place != _DISK:
            require_device(place)
    return {"device_map": dict(device_map)}


def require_device(device: str | int) -> None:
    """Refuse a device that this machine does not have, before anything is loaded for it.

    Args:
        device: its name, or the number of an accelerator.

    Raises:
        InputError: with what torch says of it.
    """
    try:
        asked = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{device!r} is no name of a device: use {_devices()}.") from error
    if asked.type == "meta":
        raise InputError(f"The device 'meta' holds no numbers, so nothing runs there: use {_devices()}.")
    try:
        torch.empty(0, device=asked)
        there = torch.get_device_module(asked).device_count()
    except (RuntimeError, AssertionError, ImportError) as error:  # which one depends on how torch was built
        reason = gist(error).partition(". ")[0]
        raise InputError(f"There is no device {device!r} here ({reason}): use {_devices()}.") from error
    if (asked.index or 0) >= there:  # of the CPU torch takes any number
        raise InputError(f"There is no device {device!r} here: use {_devices()}.")


def _devices() -> str:
    """The devices of this machine, as they are named."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if kind is None else torch.accelerator.device_count()
    return " or ".join(["cpu", *(f"{kind.type}:{i}" for i in range(count) if kind is not None)])


def auto_class(config: PreTrainedConfig) -> Any:
    """The auto class of transformers that makes the model a configuration was saved with.

    Some configurations stand for several (Emu3's for one that reads pictures and one that does not): then what
    `architectures` names counts, and failing that what reads pictures.

    Raises:
        InputError: no model with this configuration writes text.
    """
    kind = type(config)
    possible = {auto: mapping[kind] for auto, mapping in _KINDS if kind in mapping}
    own = getattr(config, "auto_map", None) or {}  # classes in code that lies beside the weights
    if not possible and (named := [auto for auto, _ in _KINDS if auto.__name__ in own]):
        return named[0]
    if not possible:
        raise InputError(
            f"As far as transformers knows, a model with a {kind.__name__} writes no text, so it answers no questions."
        )
    saved = config.architectures if isinstance(config.architectures, list) else []  # as the file has it
    return next((auto for auto, model in possible.items() if model.__name__ in saved), next(iter(possible)))
