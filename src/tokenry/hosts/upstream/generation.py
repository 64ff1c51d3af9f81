"""Steps of transformers' own decoding loops that a decoding loop of tokenry takes."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from tokenry.hosts.upstream.arguments import _lacks, parameters
from tokenry.hosts.upstream.releases import unknown_release
from tokenry.tokens import UnsupportedError

_GENERATION: Final = {
    "_prefill": ("input_ids", "generation_config", "model_kwargs"),
    "_update_model_kwargs_for_generation": ("outputs", "model_kwargs"),
    "prepare_inputs_for_generation": (),
}
"""Steps of transformers' own decoding loops that a decoding loop of tokenry takes, and the arguments it gives them."""

_PLAIN_SEARCH: Final = ("greedy_search", "sample")
"""What transformers calls the ways of decoding that drafts stand for."""


def require_generation(model: Any) -> None:
    """Refuse a model whose generation lacks a step that decoding with drafts takes.

    Raises:
        UnsupportedError: naming the step or its argument, and the release.
    """
    for step, names in _GENERATION.items():
        function = getattr(model, step, None)
        if function is None:
            raise UnsupportedError(unknown_release(f"gives {type(model).__name__} no `{step}`"))
        missing = next((n for n in names if n not in parameters(function)), None)
        if missing is not None:
            raise UnsupportedError(_lacks(function, f"`{missing}`"))


def read_prompt(model: Any, prompt: Tensor, config: Any, kwargs: dict[str, Any]) -> tuple[Any, Tensor | None]:
    """The pass over a prompt as `generate` prepares it, and the position ids of the token that will follow.

    Args:
        model: a model with transformers' generation.
        prompt: ids [b, s].
        config: the generation's configuration.
        kwargs: what `generate` handed to the decoding loop.

    Returns:
        The output, and position ids [..., b, 1] or None where the model counts what is in its cache.
    """
    output = model._prefill(prompt, config, kwargs)
    kwargs = model._update_model_kwargs_for_generation(output, kwargs)
    # Of a prompt in embeddings there are no ids.
    one = torch.cat([prompt, prompt.new_zeros(len(prompt), 1)], 1)
    following = model.prepare_inputs_for_generation(one, next_sequence_length=1, **kwargs)
    ids = following.get("position_ids")
    return output, None if ids is None else ids[..., -1:]


def special_search(config: Any) -> str | None:
    """What a generation's configuration asks for beside greedy search and sampling, in words; None if nothing."""
    mode = str(config.get_generation_mode().value)
    return None if mode in _PLAIN_SEARCH else mode.replace("_", " ")


def mask_width(config: Any) -> int:
    """How long a padding mask of ones was that `generate` left out; -1 if it left out none."""
    return int(getattr(config, "_mask_length", -1))
