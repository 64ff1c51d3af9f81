"""What tokenry must know of a model to run it on fewer tokens, found by protocol rather than by a list of classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts import upstream
from tokenry.hosts.wrappers import compiled_around, unwrap
from tokenry.tokens import Depth, InputError, UnsupportedError

_MASKED = {"full_attention", "sliding_attention"}
_POINTWISE = {"moe", "mlp"}
"""Layers that look at one token at a time."""
_STATEFUL = {"linear_attention", "mamba", "conv"}
"""Layers that read their tokens in order into a state: a shorter sequence is all right, a change midway is not."""


@dataclass(frozen=True, eq=False)
class Host:
    """A transformers model, seen as: something that encodes pictures, and a decoder whose layers run in order.

    Attributes:
        model: the model as the user has it.
        base: the module that receives `input_ids` and pixels (for a text model: the decoder itself).
        decoder: the language model's stack: a list of layers, and usually rotary position embeddings.
        compiled: modules of `torch.compile` around the model, through which the user may call it.
    """

    model: PreTrainedModel
    base: nn.Module
    decoder: nn.Module
    compiled: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, model: Any) -> Host:
        """Recognise a model, also one inside `torch.compile(model)` or a model of peft.

        Raises:
            InputError: not a transformers model.
            UnsupportedError: no decoder with a list of layers can be found in it.
        """
        compiled, model = compiled_around(model), unwrap(model)
        if not isinstance(model, PreTrainedModel):
            raise InputError(f"Expected a transformers model, got {type(model).__name__}.")
        if upstream.is_encoder_decoder(model.config):
            raise UnsupportedError(
                f"{type(model).__name__} is an encoder-decoder: its language model reads pictures by cross-attention, "
                "or in an encoder; tokenry needs a decoder-only language model."
            )
        decoder = unwrap(upstream.decoder_of(model))
        # Some models encode pictures beside their base model; some text models reach their decoder past it.
        encoders = (m for m in (unwrap(model.base_model), model) if _encodes(m))
        base = next(encoders, decoder)
        if upstream.layers_of(decoder) is None:
            raise UnsupportedError(
                f"{type(model).__name__} has no decoder with a list of layers (get_decoder() leads to "
                f"{type(decoder).__name__}); tokenry needs a decoder-only language model."
            )
        return cls(model, base, decoder, compiled)

    def require(self) -> None:
        """Refuse a model whose parts do not take what a session hands them: a release may have renamed it.

        Raises:
            UnsupportedError: naming the argument, the class and the release.
        """
        upstream.require_release()
        shared = ("attention_mask", "position_ids", "inputs_embeds", "cache")
        upstream.require_arguments(self.base, ("input_ids", *shared))
        upstream.require_arguments(self.decoder, shared)
        for layer in {type(layer): layer for layer in self.layers}.values():
            upstream.require_arguments(layer, ("hidden_states", "attention_mask", "cache"))

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self.model).__name__

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The decoder's layers that run, in order."""
        return list(upstream.layers_of(self.decoder) or ())[: self.text_config.num_hidden_layers]

    @property
    def text_config(self) -> Any:
        """The decoder's configuration."""
        return self.decoder.config.get_text_config()  # type: ignore[operator,union-attr]

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Placeholder token per modality ("image", "video"); empty for a text model."""
        known = {m: upstream.placeholder_of(self.model.config, m) for m in self.encodes}
        return {modality: token for modality, token in known.items() if token is not None}

    @property
    def encodes(self) -> list[str]:
        """The modalities that the base has an encoder for."""
        return _encodes(self.base)

    @property
    def why_no_pictures(self) -> str:
        """Why nothing in a prompt of this model is a visual token of its language model."""
        if not self.encodes:
            encode = upstream.encoder_name("image")
            return f"it has no {encode}, so pictures, if it takes any, are no tokens of its language model"
        known = (name for kind in self.encodes for name in upstream.placeholder_settings(kind))
        return f"no {' or '.join(known)} set in its configuration"

    @cached_property
    def towers(self) -> dict[str, nn.Module]:
        """The vision encoder per modality; most models have one for both."""
        known = {modality: upstream.tower_of(self.base, modality) for modality in self.encodes}
        return {modality: tower for modality, tower in known.items() if tower is not None}

    @property
    def tower(self) -> nn.Module | None:
        """The encoder of pictures, or None."""
        return next(iter(self.towers.values()), None)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The vision encoder's transformer blocks, in order."""
        return [] if self.tower is None else upstream.blocks_of(self.tower)

    @cached_property
    def has_cls(self) -> bool:
        """Whether the vision encoder prepends a [CLS] token, in blocks whose attention can be read."""
        return self.tower is not None and bool(self.blocks) and upstream.has_class_token(self.tower)

    @cached_property
    def depth(self) -> Depth:
        """Blocks of the encoder, layers of the decoder."""
        return Depth(encoder=len(self.blocks), decoder=len(self.layers))

    def layer_type(self, layer: int) -> str:
        """``full_attention``, ``sliding_attention`` or what else the configuration calls it."""
        return self._layer_types[layer]

    @cached_property
    def _layer_types(self) -> list[str]:
        types = upstream.layer_kinds(self.text_config)
        plain = "full_attention" if self._window is None else "sliding_attention"
        return types or [plain] * len(self.layers)

    def window(self, layer: int) -> int | None:
        """How far back a layer looks, or None for all the way."""
        return self._window if "sliding" in self.layer_type(layer) else None

    @cached_property
    def _window(self) -> int | None:
        return upstream.sliding_window(self.text_config)

    @cached_property
    def why_not(self) -> str | None:
        """Why tokens cannot be dropped on the way into this decoder either, or None if they can."""
        odd = set(self._layer_types) - _MASKED - _STATEFUL - _POINTWISE
        if odd:
            return f"its decoder has {', '.join(sorted(odd))} layers, which count their keys in ways unknown to tokenry"
        return None

    @cached_property
    def why_no_layer_stage(self) -> str | None:
        """Why tokens cannot be dropped at a layer of this decoder, or None if they can."""
        odd = set(self._layer_types) - _MASKED - _POINTWISE
        if odd:
            return f"its decoder has {', '.join(sorted(odd))} layers, whose state mixes all tokens"
        return None

    def takes_mask(self, layer: int) -> bool:
        """Whether a layer is attention, told by a mask what to look at; others know padding only."""
        return self.layer_type(layer) in _MASKED

    @cached_property
    def rope_axes(self) -> int:
        """Position ids per token: 3 or 4 for multi-axis RoPE (time, height, width, picture), else 1."""
        return upstream.rotary_axes(upstream.rotary_of(self.decoder), self.text_config)

    def keys_of(self, layer: int) -> int:
        """The layer whose keys and values a layer attends to: itself, or an earlier one of its type."""
        own = layer
        while own > 0 and (self._reuse[own] or self.layer_type(own) != self.layer_type(layer)):
            own -= 1
        return own

    @cached_property
    def _reuse(self) -> list[bool]:
        return [upstream.reuses_keys(layer) for layer in self.layers]

    @cached_property
    def rotary_takes_layer_type(self) -> bool:
        """Whether RoPE differs by layer type (Gemma3)."""
        return "layer_type" in upstream.parameters(self.rotary)

    @property
    def rotary(self) -> nn.Module:
        """The rotary position embedding of a decoder whose layers rotate."""
        rotary = upstream.rotary_of(self.decoder)
        assert rotary is not None
        return rotary

    def rotate(self, layer: int, like: Tensor, ids: Tensor) -> Any:
        """Rotary embeddings of given position ids for a layer.

        Args:
            layer: its index; some decoders rotate by layer type.
            like: hidden states, for device and dtype.
            ids: position ids, axes x batch x tokens.
        """
        extra = (self.layer_type(layer),) if self.rotary_takes_layer_type else ()
        return self.rotary(like, ids[0] if len(ids) == 1 else ids, *extra)

    def attention_modules(self, layers: list[nn.Module], indices: set[int]) -> dict[nn.Module, int]:
        """The modules inside the given layers that may call the attention function, with their layer's index."""
        return {m: i for i in indices for m in upstream.attention_parts(layers[i])}


def _encodes(module: nn.Module) -> list[str]:
    return [modality for modality in upstream.MODALITIES if upstream.encoder_of(module, modality)]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while; afterwards every module in it is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
