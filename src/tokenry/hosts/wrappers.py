"""What stands around a model: adapters of peft, and compiled forms of torch. Their names are known here only."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tokenry.tokens import InputError, UnsupportedError
from tokenry.tokens.errors import gist
from tokenry.tokens.extras import optional

_COMPILED_MODULE: Final = "_orig_mod"
"""Attribute of what `torch.compile(module)` returns that holds the module."""

_COMPILED_FROM: Final = "_torchdynamo_orig_callable"
"""Attribute of a compiled function that holds what it was made from."""

_SAMPLE: Final = 1024
"""Values of a tensor that are read to tell it from others."""

COMPILED_CALL: Final = "_compiled_call_impl"
"""Attribute of a module that `module.compile()` sets, and that its calls take instead of `forward` and its hooks."""


def unwrap(model: Any, *, bare: bool = True) -> Any:
    """The model inside `peft.PeftModel` and `torch.compile(model)`, which shares its weights and its adapters.

    Args:
        model: any.
        bare: whether it will answer in place of `model`; False where prompts still go through what is around it.

    Raises:
        UnsupportedError: adapters that put virtual tokens before the prompt, which are no part of the bare model.
    """
    while True:
        if hasattr(model, _COMPILED_MODULE):
            model = getattr(model, _COMPILED_MODULE)
        elif hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
            if bare:
                _refuse_virtual_tokens(model)
            model = model.get_base_model()
        else:
            return model


def compiled_around(model: Any) -> tuple[nn.Module, ...]:
    """What `torch.compile` put around a model, from the outside in."""
    found = []
    while hasattr(model, _COMPILED_MODULE):
        found.append(model)
        model = getattr(model, _COMPILED_MODULE)
    return tuple(found)


def virtual_tokens(model: Any) -> int:
    """How many columns peft puts before the text while it generates with the model inside; 0 without it."""
    owner = getattr(model.prepare_inputs_for_generation, "__self__", model)  # the PeftModel, for as long
    config: Any = getattr(owner, "active_peft_config", None)
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0


def peft_for(purpose: str) -> Any:
    """The package peft.

    Args:
        purpose: what it is needed for, as the beginning of a sentence.

    Raises:
        UnsupportedError: it is not installed.
    """
    return optional("peft", package="peft", extra="adapt", purpose=purpose)


def with_adapter(model: Any, folder: Path) -> Any:
    """A model with an adapter around it, in evaluation mode: `peft.PeftModel`, by peft's own loading.

    Args:
        model: what the adapter was trained on; its modules are changed.
        folder: the adapter: its configuration, and its weights in safetensors.

    Raises:
        InputError: the adapter was trained on another architecture: it does not fit, or some of it has no place.
        UnsupportedError: peft is not installed.
    """
    peft = peft_for(f"The adapter in {str(folder)!r}")
    where = f"The adapter in {str(folder)!r} does not fit {type(model).__name__}"
    remedy = "name the model that it was trained on."
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wrapped = peft.PeftModel.from_pretrained(model, str(folder), local_files_only=True)
            # Again, since only this way peft tells which weights found no place.
            report = wrapped.load_adapter(str(folder), wrapped.active_adapter, local_files_only=True)
    except Exception as error:  # by the kind of adapter: shapes, names, settings of another release
        raise InputError(f"{where} ({gist(error)}): {remedy}") from error
    # Weights that a kind of adapter shares between layers are in no file; peft does not speak of those.
    lacking = list(report.missing_keys) if any("missing adapter keys" in str(w.message) for w in said) else []
    for names, what in ((lacking, "it lacks"), (report.unexpected_keys, "the model has no place for")):
        if names:
            raise InputError(f"{where}: {what} {len(names)} weights ({names[0]} ...); {remedy}")
    return wrapped.eval()


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs: where its first weights are, but for those that accelerate left elsewhere.

    A device map may leave the first weights on disk or in another memory, from where they are fetched for each pass;
    until then they are on "meta".
    """
    devices = (weight.device for weight in model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))


def synchronise(model: nn.Module) -> None:
    """Wait until the model's device has done what it was given, or fail with what failed there."""
    if device_of(model).type == "cuda":
        torch.cuda.synchronize(device_of(model))


@contextmanager
def fetched(model: nn.Module, name: str, tensor: Tensor) -> Iterator[Tensor]:
    """A weight of a model with its numbers, which accelerate may keep on disk or in another memory between passes.

    Args:
        model: whose weight it is.
        name: of the weight.
        tensor: what the model has under that name.
    """
    if tensor.device.type != "meta":
        yield tensor
        return
    from accelerate.utils import align_module_device

    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    with align_module_device(module):
        yield getattr(module, own)


def _refuse_virtual_tokens(model: Any) -> None:
    config = model.active_peft_config
    if config.is_prompt_learning:
        raise UnsupportedError(
            f"The adapter {model.active_adapter!r} ({type(config).__name__}) puts {config.num_virtual_tokens} virtual "
            "tokens in front of every prompt, by embeddings or cache, where they are no tokens of `input_ids`; the "
            "model inside would answer without them. Use an adapter that changes weights, such as LoRA."
        )


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a compiled one was made from; any other function itself."""
    while hasattr(function, _COMPILED_FROM):
        function = getattr(function, _COMPILED_FROM)
    return function


def fingerprint(model: Any) -> str:
    """A hash of a model's architecture and weights.

    Of each tensor up to 1,024 evenly spaced values are read: any training or conversion changes some of them, and a
    model of many gigabytes is still hashed in a moment.
    """
    found = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        with fetched(model, name, tensor) as held:
            flat = held.detach().flatten()
            sample = flat[:: max(1, len(flat) // _SAMPLE)][:_SAMPLE].to("cpu", torch.float64)
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(sample.numpy().tobytes())
    return found.hexdigest()[:16]
