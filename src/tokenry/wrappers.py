"""What stands around a model: adapters of peft, and compiled forms of torch. Their names are known here only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from tokenry.tokens import UnsupportedError

_COMPILED_MODULE: Final = "_orig_mod"
"""Attribute of what `torch.compile(module)` returns that holds the module."""

_COMPILED_FROM: Final = "_torchdynamo_orig_callable"
"""Attribute of a compiled function that holds what it was made from."""

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
