"""Every name of transformers that tokenry leans on, resolved by signature, type or role, and refused when unknown.

What transformers calls things changes with minor releases: 5.24 renamed the argument `past_key_values` to `cache` in
every forward. So arguments are looked up in the signature of the function at hand, caches are recognised by their
type, parts of a model by what they are for, and submodules of the library are imported in this file only. A release in
which something cannot be found is refused by name, never worked around.
"""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from types import MethodType
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    StaticCache,
)
from transformers.masking_utils import (
    ALL_MASK_ATTENTION_FUNCTIONS,
    AttentionMaskInterface,
    create_causal_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from tokenry.tokens import UnsupportedError

__all__ = [
    "ATTENTION_STEPS",
    "ENCODED",
    "MODALITIES",
    "NEWLINE",
    "PACKING",
    "PIXELS",
    "PROVEN",
    "TOKEN_TYPES",
    "TYPE_OF",
    "Cache",
    "CacheWatcher",
    "DynamicCache",
    "DynamicLayer",
    "EncoderDecoderCache",
    "Listener",
    "StaticCache",
    "Tiling",
    "attention_kernel",
    "attention_parts",
    "attention_steps",
    "attention_width",
    "blocks_of",
    "cache_argument",
    "cache_field",
    "cache_given",
    "cache_of",
    "cache_watcher",
    "counts_by_mask",
    "decoder_of",
    "encoder_name",
    "encoder_of",
    "forget_watches",
    "has_class_token",
    "holds_videos",
    "is_encoder_decoder",
    "is_flash",
    "is_recurrent",
    "keeps_keys",
    "kernel_asked_for",
    "key_columns",
    "key_width",
    "keys_by_layer",
    "keys_seen",
    "lacks_cache",
    "last_norm_of",
    "layer_kinds",
    "layers_of",
    "mask_width",
    "named_arguments",
    "parameters",
    "picture_features",
    "picture_grids",
    "picture_sizes",
    "placeholder_of",
    "placeholder_settings",
    "projector_of",
    "puts_tiles_together",
    "read_prompt",
    "release",
    "require_arguments",
    "require_generation",
    "require_release",
    "reuses_keys",
    "rotary_axes",
    "rotary_of",
    "shortest_window",
    "sliding_window",
    "special_search",
    "take_between_layers",
    "takes_additive_masks",
    "takes_anything",
    "takes_cache",
    "takes_encoded",
    "tiling_of",
    "tower_of",
    "unknown_release",
    "watch_attention",
    "watch_cache",
    "whole_comes_first",
    "whole_sequences",
    "with_cache",
    "without_cache",
    "without_questions",
    "without_windows",
]

PROVEN: Final = ("5.20.0", "5.24.0")
"""The oldest and the newest release that the tests of hosts, decoding and the main job ran with (`make upstream`)."""

_LAZY: Final = {
    "BaseModelOutputWithPooling": "modeling_outputs",
    "BertEncoder": "models.bert.modeling_bert",
    "BertLayer": "models.bert.modeling_bert",
    "BertPredictionHeadTransform": "models.bert.modeling_bert",
    "CLIPImageProcessorPil": "models.clip.image_processing_pil_clip",
    "CausalLMOutputWithPast": "modeling_outputs",
    "Conv1D": "pytorch_utils",
    "GenerateDecoderOnlyOutput": "generation",
    "LlamaAttention": "models.llama.modeling_llama",
    "LlamaDecoderLayer": "models.llama.modeling_llama",
    "LlamaRotaryEmbedding": "models.llama.modeling_llama",
    "ModelOutput": "utils",
    "Seq2SeqLMOutput": "modeling_outputs",
    "SynthIDTextWatermarkLogitsProcessor": "generation",
    "T5LayerFF": "models.t5.modeling_t5",
    "T5LayerNorm": "models.t5.modeling_t5",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "generation",
    "cached_file": "utils",
}
"""What tokenry takes from submodules of transformers, and from which; imported when asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"transformers.{_LAZY[name]}"), name)
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(unknown_release(f"has no `{name}` in transformers.{_LAZY[name]}")) from error


# --- releases ------------------------------------------------------------------------------------------------------


def unknown_release(what: str) -> str:
    """What to tell of something in the installed release that is not known here, as in "gives Llama no `forward`"."""
    return (
        f"transformers {transformers.__version__} {what}; tokenry is proven with {PROVEN[0]} to {PROVEN[1]}. Install "
        "one of these, or a newer tokenry."
    )


def release() -> str:
    """The release of transformers that is installed."""
    return str(transformers.__version__)


def require_release() -> None:
    """Refuse releases that are too old, and say once that one is newer than the newest that was proven.

    Raises:
        UnsupportedError: a release before the oldest proven one.
    """
    _require(release())


@functools.cache
def _require(version: str) -> None:
    if Version(version) < Version(PROVEN[0]):
        raise UnsupportedError(unknown_release("is too old"))
    if Version(version).release[:2] > Version(PROVEN[1]).release[:2]:
        warnings.warn(
            f"transformers {version} is newer than {PROVEN[1]}, the newest release that tokenry was proven with. "
            "`tokenry reduce check MODEL` tells whether your model still runs exactly.",
            stacklevel=4,
        )


# --- arguments and outputs -----------------------------------------------------------------------------------------

_CACHE: Final = ("cache", "past_key_values")
"""What the argument that takes a cache is called, newest name first (5.24 renamed it)."""


_ANYTHING: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def parameters(callee: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a module's forward, or of a function, by name; `self` is not among them.

    A forward that was replaced by one that takes whatever it is given hands it on to what the module's class wrote.
    """
    if not isinstance(callee, nn.Module):
        return _signature(callee)
    known = _signature(callee.forward)
    if "forward" not in vars(callee) or not _names_nothing(known):
        return known
    written = _signature(MethodType(type(callee).forward, callee))
    return known if _names_nothing(written) else written  # a wrapper's class names nothing either


def _names_nothing(known: Mapping[str, inspect.Parameter]) -> bool:
    return all(p.kind in _ANYTHING for p in known.values())


def _signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    # Whatever stands around a method, its own signature counts, which is looked up once.
    function = inspect.unwrap(function, stop=lambda f: hasattr(f, "__func__") or hasattr(f, "__signature__"))
    plain = getattr(function, "__func__", None)
    if plain is None:
        return inspect.signature(function).parameters
    bound = dict(_plain_signature(plain))
    bound.pop(next(iter(bound), ""), None)
    return bound


@functools.lru_cache(maxsize=1024)
def _plain_signature(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def takes_anything(callee: Any) -> bool:
    """Whether a module hands on keyword arguments that it does not name."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters(callee).values())


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call to a module by name."""
    if not args:
        return kwargs
    return dict(zip(parameters(module), args, strict=False)) | kwargs


def require_arguments(module: nn.Module, names: Iterable[str]) -> None:
    """Refuse a module whose forward does not take what will be handed to it.

    Args:
        module: a module of transformers.
        names: arguments; "cache" stands for whatever the release calls a cache.

    Raises:
        UnsupportedError: naming the argument, the class and the release.
    """
    known = parameters(module)
    for name in names:
        if name == _CACHE[0]:
            cache_argument(module)
        elif name not in known and not takes_anything(module):
            raise UnsupportedError(_lacks(module, f"`{name}`"))


def _lacks(callee: Any, what: str) -> str:
    name = (
        type(callee).__name__
        if isinstance(callee, nn.Module)
        else getattr(callee, "__qualname__", str(callee))
    )
    return unknown_release(f"gives {name} no argument {what} (it has {', '.join(parameters(callee))})")


def cache_argument(callee: Any) -> str:
    """What a module's forward, or a function, calls the argument that takes a cache.

    Raises:
        UnsupportedError: it has no argument of a known name.
    """
    known = parameters(callee)
    name = next((name for name in _CACHE if name in known), None)
    if name is not None:
        return name
    # A wrapper: what it wraps is of this release.
    if takes_anything(callee) and callee is not create_causal_mask:
        return cache_argument(create_causal_mask)
    raise UnsupportedError(_lacks(callee, "for a cache that tokenry knows"))


def lacks_cache(module: nn.Module) -> bool:
    """Whether a model that names what it takes does not name a cache of keys and values."""
    known = parameters(module)
    return "input_ids" in known and not any(name in known for name in _CACHE)


def with_cache(callee: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a cache to a module or function: ``model(ids, **with_cache(model, cache))``."""
    return {cache_argument(callee): cache}


def cache_given(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, under whatever name it comes; None if there is none.

    Hooks see arguments before transformers translates old names, so the caller's spelling counts, not the module's.
    """
    named = next((arguments[name] for name in _CACHE if arguments.get(name) is not None), None)
    return named if named is not None else next((v for v in arguments.values() if isinstance(v, Cache)), None)


def without_cache(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call without its cache."""
    return {k: v for k, v in arguments.items() if k not in _CACHE and not isinstance(v, Cache)}


def cache_of(output: Any) -> Any:
    """The cache in a model's output, under whatever name; None if there is none."""
    parts = output.values() if isinstance(output, Mapping) else output
    return next((part for part in parts if isinstance(part, Cache)), None)


def cache_field(kind: type, cache: Any) -> dict[str, Any]:
    """The field of an output class that holds a cache: ``CausalLMOutputWithPast(logits=..., **cache_field(...))``.

    Raises:
        UnsupportedError: the class has no field of a known name.
    """
    known = {field.name for field in fields(kind)}
    name = next((name for name in _CACHE if name in known), None)
    if name is None:
        raise UnsupportedError(
            unknown_release(f"gives {kind.__name__} no field for a cache that tokenry knows")
        )
    return {name: cache}


_F = TypeVar("_F", bound=Callable[..., Any])


def takes_cache(forward: _F) -> _F:
    """Decorator of a forward with an argument `cache`, which transformers may hand in under another name."""

    @functools.wraps(forward)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        for name in _CACHE[1:]:
            if name in kwargs:
                kwargs[_CACHE[0]] = kwargs.pop(name)
        return forward(*args, **kwargs)

    return renamed  # type: ignore[return-value]


# --- parts of a model, by what they are for --------------------------------------------------------------------------


_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "layers": ("layers",),
    "rotary": ("rotary_emb",),
    "last norm": ("norm",),
    "norm before attention": ("input_layernorm",),
    "attention after that norm": ("self_attn",),
    "attention": ("self_attn", "attention", "attn"),
    "queries": ("q_proj",),
    "keys": ("k_proj",),
    "queries, keys and values": ("qkv",),
    "image": ("image_tower", "vision_tower", "visual", "vision_model"),
    "video": ("video_tower", "vision_tower", "visual", "vision_model"),
    "class token": ("class_embedding", "cls_token"),
    "projector": ("multi_modal_projector", "connector"),
}
"""What parts of a model are called, by what they are for."""

_PLACEHOLDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("image_token_id", "image_token_index"),
    "video": ("video_token_id", "video_token_index"),
}
"""Settings that hold the token which stands for visual ones, by modality."""

MODALITIES: Final = tuple(_PLACEHOLDERS)
"""What visual tokens may be made of."""


def _part(module: Any, role: str) -> nn.Module | None:
    """A module's part of that role; None if it has none."""
    found = (getattr(module, name, None) for name in _PARTS[role])
    return next((part for part in found if isinstance(part, nn.Module)), None)


def layers_of(decoder: Any) -> nn.ModuleList | None:
    """A decoder's list of layers, or None."""
    found = _part(decoder, "layers")
    return found if isinstance(found, nn.ModuleList) else None


def rotary_of(decoder: nn.Module) -> nn.Module | None:
    """A decoder's rotary position embedding, or None."""
    return _part(decoder, "rotary")


def last_norm_of(decoder: nn.Module) -> nn.Module | None:
    """The norm after a decoder's last layer, or None."""
    return _part(decoder, "last norm")


def attention_steps(layer: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The norm that a decoder layer begins with, and the attention that it hands the result to; None if either has
    another place."""
    norm, attention = _part(layer, "norm before attention"), _part(layer, "attention after that norm")
    return None if norm is None or attention is None else (norm, attention)


ATTENTION_STEPS: Final = " and ".join(
    f"`{_PARTS[role][0]}`" for role in ("norm before attention", "attention after that norm")
)
"""What `attention_steps` looks for, in words."""


def attention_parts(layer: nn.Module) -> list[nn.Module]:
    """The modules inside a layer that may call the attention function."""
    return [m for name, m in layer.named_modules() if "attn" in name or "attention" in name]


def attention_width(layer: nn.Module) -> int:
    """Heads times head size of a layer's attention; 0 if it has no linear layer for queries."""
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith(_PARTS["queries"]):
                return module.out_features
            if name.endswith(_PARTS["queries, keys and values"]):
                return module.out_features // 3
    return 0


def key_width(layer: nn.Module) -> int:
    """Heads of keys times their size in a layer's attention."""
    keys = next((m for n, m in layer.named_modules() if n.endswith(_PARTS["keys"])), None)
    return keys.out_features if isinstance(keys, nn.Linear) else attention_width(layer)


def tower_of(base: nn.Module, modality: str) -> nn.Module | None:
    """The vision encoder of a modality in the module that is given pixels, or None."""
    return _part(base, modality)


def blocks_of(tower: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a vision encoder, in order."""
    stacks = (m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m))
    return next((list(m) for m in stacks if _part(m[0], "attention") is not None), [])


def has_class_token(tower: nn.Module) -> bool:
    """Whether a vision encoder has a [CLS] token to put before its patches."""
    return any(name.rsplit(".", 1)[-1] in _PARTS["class token"] for name, _ in tower.named_parameters())


def projector_of(base: nn.Module) -> nn.Module | None:
    """What takes the vision encoder's tokens to the width of the language model, or None."""
    return _part(base, "projector")


def placeholder_of(config: Any, modality: str) -> int | None:
    """The token that stands for the visual tokens of a modality, or None."""
    values = (getattr(config, name, None) for name in _PLACEHOLDERS[modality])
    return next((value for value in values if isinstance(value, int)), None)


def placeholder_settings(modality: str) -> tuple[str, ...]:
    """What the setting may be called that holds a modality's placeholder token."""
    return _PLACEHOLDERS[modality]


def decoder_of(model: Any) -> nn.Module:
    """The stack of a language model's layers: what `get_decoder` gives or, where that is a whole causal language model
    (Llama4, BLIP-2), what lies within; the last thing found if nowhere there is a list of layers."""
    found: Any = model.get_decoder()
    while layers_of(found) is None:
        asked = found.get_decoder() if hasattr(found, "get_decoder") else None
        parts = [m for m in found.children() if layers_of(m) is not None]
        within = (asked, getattr(found, "base_model", None), getattr(found, "decoder", None), *parts[:1])
        below = next((m for m in within if isinstance(m, nn.Module) and m is not found), None)
        if below is None:
            break
        found = below
    return found


def is_encoder_decoder(config: Any) -> bool:
    """Whether a model's text is written by a decoder that reads another stack by cross-attention."""
    return bool(getattr(config, "is_encoder_decoder", False))


def encoder_name(modality: str) -> str:
    """What the method is called that encodes inputs of a modality."""
    return f"get_{modality}_features"


def encoder_of(module: Any, modality: str) -> Callable[..., Any] | None:
    """A module's encoder of "image" or "video" inputs, or None."""
    return getattr(module, encoder_name(modality), None)


PIXELS: Final = ("pixel_values", "pixel_values_images", "image_patches", "pixel_values_videos")
"""Arguments that hold pictures and videos as pixels, those of videos last."""

ENCODED: Final = "mm_encoder_outputs"
"""Argument of some models that holds what their encoders delivered before, by modality."""

TOKEN_TYPES: Final = "mm_token_type_ids"
"""Argument in which a processor says of each token what it stands for."""

TYPE_OF: Final[Mapping[str, int]] = {"image": 1, "video": 2}
"""What processors write there."""

PACKING: Final = "pack_image_features"
"""Method of some models that stitches encoded tiles together."""

NEWLINE: Final = "image_newline"
"""Its argument that holds the token after each line."""


def holds_videos(pixels: str) -> bool:
    """Whether an argument of pixels is one for videos."""
    return pixels.endswith("videos")


def picture_grids(call: Mapping[str, Any]) -> Tensor | None:
    """(frames, height, width) of each item in patches, among the arguments of an encoder's call; None if not there."""
    return next((g for name, g in call.items() if name.endswith("grid_thw") and g is not None), None)


def picture_sizes(call: Mapping[str, Any]) -> Tensor | None:
    """(height, width) of each picture in pixels, among the arguments of an encoder's call; None if not there."""
    return call.get("image_sizes")


def puts_tiles_together(encode: Callable[..., Any]) -> bool:
    """Whether an encoder is told which tiles make one picture, so that what it delivers are pictures."""
    return any(name in parameters(encode) for name in ("image_sizes", "image_grids", "num_local_patches"))


def takes_encoded(base: nn.Module) -> bool:
    """Whether a model can be given pictures that are already encoded."""
    return ENCODED in parameters(base)


def picture_features(output: Any) -> Any:
    """The features in the output of an encoder of pictures: one tensor of tokens for each thing it encoded.

    Most classes put them into `pooler_output`; Fuyu has its last states only, Granite4-Vision one list for each layer
    that they are added before.
    """
    pooled = getattr(output, "pooler_output", output)
    if pooled is None and getattr(output, "deepstack_features", None):
        pooled = output.deepstack_features[0][1]
    return getattr(output, "last_hidden_state", None) if pooled is None else pooled


class Tiling(StrEnum):
    """How the processor of a model writes a picture that it cut into tiles."""

    BETWEEN = "between"
    """One mark or none between two tiles, more between two pictures (InternVL, Aya, Cohere2, Ovis2, LFM2)."""
    AROUND = "around"
    """A mark before each tile, and after the last (Idefics3, SmolVLM)."""
    SLICES = "slices"
    """Marks around each tile; the whole picture has others than its slices and comes first (MiniCPM-V)."""


_TILING_SETTINGS: Final = {
    "slice_mode": Tiling.SLICES,
    "crop_to_patches": Tiling.BETWEEN,
    "do_image_splitting": Tiling.BETWEEN,
}
"""Settings of image processors that say whether pictures are cut."""


@functools.cache
def tiling_of(model_type: str) -> Tiling | None:
    """How the image processor that belongs to a type of model cuts pictures into tiles; None if it does not.

    Read from the processor's own source, since its class may not be importable where only the model is run.
    """
    known = import_module("transformers.models.auto.image_processing_auto").IMAGE_PROCESSOR_MAPPING_NAMES
    names = known.get(model_type) or ()
    names = (
        list(names.values()) if isinstance(names, Mapping) else [names] if isinstance(names, str) else names
    )
    for name in filter(None, names):
        module = getattr(transformers, "_class_to_module", {}).get(name)
        spec = None if module is None else find_spec(f"transformers.{module}")
        if spec is None or spec.origin is None:
            continue
        source = Path(spec.origin).read_text(encoding="utf-8")
        found = next((t for setting, t in _TILING_SETTINGS.items() if setting in source), None)
        if found is not None:
            return found
    return None


def whole_comes_first(config: Any) -> bool:
    """Whether the whole picture is the first of its tiles, not the last: so in Ovis2, whose configuration has tokens
    for the grid that follows, and where pictures are sliced."""
    sliced = tiling_of(str(config.model_type)) is Tiling.SLICES
    return sliced or hasattr(config, "visual_indicator_token_ids")


def rotary_axes(rotary: Any, config: Any) -> int:
    """Position ids that a rotary embedding reads per token; 3 or 4 for multi-axis RoPE.

    The module says it best: configurations leave the sections out where their default holds.
    """
    sections = getattr(rotary, "mrope_section", None)
    if not sections:
        sections = (getattr(config, "rope_parameters", None) or {}).get("mrope_section")
    if isinstance(sections, Mapping):  # by layer type
        sections = next(iter(sections.values()), None)
    return len(sections) if sections else 1


def counts_by_mask(decoder: nn.Module) -> bool:
    """Whether a decoder that is given no position ids counts the tokens of its padding mask (OPT), not the columns."""
    return any(isinstance(m, nn.Embedding) and "attention_mask" in parameters(m) for m in decoder.children())


def layer_kinds(config: Any) -> list[str] | None:
    """What each layer of a decoder is, in its configuration's words; None if all are alike."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    return None if kinds is None else list(kinds)


def reuses_keys(layer: nn.Module) -> bool:
    """Whether a layer has no keys and values of its own and attends to those of an earlier one of its type."""
    return any(getattr(module, "is_kv_shared_layer", False) for module in layer.modules())


_BETWEEN: Final = (("deepstack_visual_embeds", "visual_pos_masks"), ("deepstack_features", "vision_mask"))
"""Arguments of decoders that hold features to be added to visual tokens between layers, and where these tokens are."""


def whole_sequences(decoder: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A call's arguments without leave to drop tokens in the decoder: some (Gemma4) go on with the last position only
    from the layers on that keep no keys of their own."""
    taken = {"logits_to_keep": 0} if "logits_to_keep" in parameters(decoder) else {}
    return dict(arguments) | taken


def take_between_layers(arguments: dict[str, Any], like: Tensor) -> dict[int, Tensor]:
    """Take the features that a decoder adds to its visual tokens between layers (deepstack) out of a call's arguments.

    Args:
        arguments: of a call to the decoder; loses what is taken.
        like: embeddings of the call [b t d].

    Returns:
        By layer, what is added to the whole sequences before it; zero where there is no visual token.
    """
    found: dict[int, Tensor] = {}
    for name, where in _BETWEEN:
        features, mask = arguments.pop(name, None), arguments.pop(where, None)
        if features is None or mask is None:
            continue
        mask = mask if mask.ndim == like.ndim else mask[..., None]
        by_layer = features if isinstance(features, Mapping) else dict(enumerate(features, start=1))
        for layer, part in by_layer.items():
            found[layer] = torch.zeros_like(like).masked_scatter(mask, part.to(like))
    return found


# --- generation ----------------------------------------------------------------------------------------------------

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


# --- code that comes with a model -------------------------------------------------------------------------------------


@contextmanager
def without_questions() -> Iterator[None]:
    """While open, transformers refuses code that comes with a model where it would ask on the keyboard to run it.

    It asks wherever nobody told it `trust_remote_code`, and some of its processors do not hand on what they were told.
    """
    code = import_module("transformers.dynamic_module_utils")
    if not hasattr(code, _SECONDS_TO_ANSWER):
        raise UnsupportedError(unknown_release(f"has no `{_SECONDS_TO_ANSWER}`"))
    before = getattr(code, _SECONDS_TO_ANSWER)
    setattr(code, _SECONDS_TO_ANSWER, 0)
    try:
        yield
    finally:
        setattr(code, _SECONDS_TO_ANSWER, before)


_SECONDS_TO_ANSWER: Final = "TIME_OUT_REMOTE_CODE"
"""How long transformers waits for an answer; 0: it does not ask."""


# --- attention -----------------------------------------------------------------------------------------------------

Listener = Callable[[Tensor, Tensor, Tensor | None, float], None]
"""Called with a layer's query [b h q d] and key [b kv t d] after RoPE, its mask and its logit scale."""

_PREFIX = "tokenry_"
_LISTENERS: WeakKeyDictionary[nn.Module, tuple[ReferenceType[Listener], ...]] = WeakKeyDictionary()
"""Who listens to an attention module; whoever opened the watch keeps the listeners, which may know the module."""


@dataclass
class _Watch:
    """A configuration whose attention is watched: the implementation it asked for, and by how many it is watched."""

    config: Any
    asked: str | None
    watchers: int = 0


_WATCHES: dict[int, _Watch] = {}
"""By the identity of the configuration, which has no hash."""

_WATCHING: Final = RLock()


def attention_kernel(config: Any) -> str:
    """The attention implementation that a configuration asks for, also while its queries and keys are watched."""
    return kernel_asked_for(config) or "eager"


def kernel_asked_for(config: Any) -> str | None:
    """The attention implementation that a configuration names; None leaves the choice to the model that is made."""
    name = getattr(config, "_attn_implementation", None)
    return None if name is None else str(name).removeprefix(_PREFIX).replace("f1ash", "flash")


def is_flash(config: Any) -> bool:
    """Whether attention runs on a kernel that takes a 2-D padding mask instead of a 4-D one."""
    return "flash" in attention_kernel(config)


def takes_additive_masks(kernel: str) -> bool:
    """Whether an attention implementation adds a 4-D mask [b h q t] to its logits, whatever that mask says."""
    known = ALL_MASK_ATTENTION_FUNCTIONS
    return kernel in known.valid_keys() and known[kernel] in (known["eager"], known["sdpa"])


@contextmanager
def watch_attention(configs: list[Any], listeners: dict[nn.Module, Listener]) -> Iterator[Callable[[], None]]:
    """While open, the attention modules in `listeners` report their queries and keys; attention itself is unchanged.

    The kernel in use stays in use: the model is pointed at a function that reports and then calls that kernel. The
    mask function is registered under the same name, without which transformers would drop padding masks silently, and
    the name must not contain "flash", which switches other code paths. Watches may overlap and end in any order.

    Yields:
        What to call before the model runs: it follows the user to another attention implementation, set meanwhile
        with `set_attn_implementation`. That one also stays when the watch ends.
    """
    if not listeners:
        yield lambda: None
        return
    try:
        with _WATCHING:
            for module, listener in listeners.items():
                _LISTENERS[module] = (*_LISTENERS.get(module, ()), ref(listener))
            for config in configs:
                _WATCHES.setdefault(
                    id(config), _Watch(config, config._attn_implementation_internal)
                ).watchers += 1
            _follow(configs)
        yield partial(_follow, configs)
    finally:
        with _WATCHING:
            for config in configs:
                _leave(config)
            for module, listener in listeners.items():
                others = tuple(each for each in _LISTENERS.get(module, ()) if each() is not listener)
                if others:
                    _LISTENERS[module] = others
                else:
                    _LISTENERS.pop(module, None)


def _follow(configs: list[Any]) -> None:
    """Point configurations at the reporting variant of what they ask for."""
    for config in configs:
        name = config._attn_implementation_internal
        if not str(name).startswith(_PREFIX):
            with _WATCHING:
                _WATCHES[id(config)].asked = name
                config._attn_implementation_internal = _watched(attention_kernel(config))


def _leave(config: Any) -> None:
    watch = _WATCHES.get(id(config))
    if watch is None:
        return
    watch.watchers -= 1
    if watch.watchers == 0:
        del _WATCHES[id(config)]
        # Else the user chose another meanwhile.
        if str(config._attn_implementation_internal).startswith(_PREFIX):
            config._attn_implementation_internal = watch.asked


def forget_watches(module: nn.Module) -> None:
    """Let the configurations of a module, copied while they were watched, ask for plain attention again."""
    for part in module.modules():
        config = part.__dict__.get("config")
        if str(getattr(config, "_attn_implementation_internal", None)).startswith(_PREFIX):
            config._attn_implementation_internal = attention_kernel(config)  # type: ignore[union-attr]


def _watched(base: str) -> str:
    """The name of the reporting variant of an attention implementation, registered on first use."""
    name = _PREFIX + base.replace("flash", "f1ash")
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():

        def attention(
            module: nn.Module,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attention_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            scale = kwargs.get("scaling")
            for listening in _LISTENERS.get(module, ()):
                if (listener := listening()) is not None:
                    listener(query, key, attention_mask, query.shape[-1] ** -0.5 if scale is None else scale)
            return _attention_function(base, module)(module, query, key, value, attention_mask, **kwargs)

        # Layers may be compiled: what listeners note is no part of a graph.
        AttentionInterface.register(name, torch.compiler.disable(attention))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _attention_function(base: str, module: nn.Module) -> Callable[..., Any]:
    if base != "eager":
        return ALL_ATTENTION_FUNCTIONS[base]
    # Eager attention is no registered function: each modelling file has its own.
    return sys.modules[type(module).__module__].eager_attention_forward


def is_recurrent(model: Any) -> bool:
    """Whether a model keeps states that hold all of the text at once, not keys and values of single tokens."""
    return bool(getattr(model, "_is_stateful", False))


def keeps_keys(cache: Cache, layer: int) -> bool:
    """Whether a cache holds keys of its own for a layer that has run; layers that reuse another's keys have none."""
    layers = list(getattr(cache, "layers", ()))
    placeholder = getattr(cache_utils, "DummyLayer", ())
    return layer < len(layers) and not isinstance(layers[layer], placeholder)


# --- caches --------------------------------------------------------------------------------------------------------


def keys_seen(cache: Cache | None, layer: int) -> int:
    """Tokens that a cache layer has been given so far."""
    return 0 if cache is None else int(_plain_kind(cache).get_seq_length(cache, layer))


def keys_by_layer(cache: Cache) -> dict[int, int] | None:
    """Tokens that each layer of a cache holds, where it holds keys of its own; None if a layer keeps a state instead,
    which gives no token back."""
    if not all(hasattr(layer, "get_seq_length") for layer in cache.layers):
        return None
    return {i: keys_seen(cache, i) for i in range(len(cache.layers)) if keeps_keys(cache, i)}


@runtime_checkable
class CacheWatcher(Protocol):
    """What is told of, and may forbid, the things that happen to a cache (`watch_cache`)."""

    def may_grow(self, held: int) -> bool:
        """Called before something is written to a cache of `held` tokens; False ends the watch, an error forbids."""

    def length(self, layer: int, held: int) -> int:
        """The length that the cache reports of a layer, where it holds `held` tokens."""

    def rows(self, pick: Callable[[Tensor], Tensor]) -> None:
        """The cache's rows were moved; `pick` does the same to a tensor with a row for each."""


_WATCHER = "tokenry_watcher"
"""Attribute of a cache that holds its watcher: it is copied, and forgotten, together with the cache."""


def cache_watcher(cache: Cache) -> Any:
    """Who watches a cache; None if nobody does."""
    return getattr(cache, _WATCHER, None)


def watch_cache(cache: Cache, watcher: CacheWatcher) -> None:
    """Have a cache ask `watcher` before anything is written to it, and tell it when rows move.

    The cache stays what it is, of a subclass of its own kind. Copies are watched as well, by copies of the watcher;
    what is done to the layers one by one is not seen.
    """
    setattr(cache, _WATCHER, watcher)
    kind = _plain_kind(cache)
    if type(cache) is kind:
        cache.__class__ = _watched_kind(cast(Any, kind))


def _plain_kind(cache: Cache) -> type[Cache]:
    return getattr(type(cache), "tokenry_plain", type(cache))


@functools.cache
def _watched_kind(kind: Any) -> Any:
    """The subclass of a kind of cache whose instances are watched: one for each kind, made when first asked for."""

    def writing(name: str) -> Callable[..., Any]:
        @functools.wraps(getattr(kind, name))
        def write(self: Cache, *args: Any, **kwargs: Any) -> Any:
            watcher = cache_watcher(self)
            if watcher is not None and not watcher.may_grow(keys_seen(self, 0)):
                setattr(self, _WATCHER, None)
            return getattr(kind, name)(self, *args, **kwargs)

        return write

    def moving(name: str, pick: Callable[[Tensor, Any], Tensor]) -> Callable[..., Any]:
        @functools.wraps(getattr(kind, name))
        def move(self: Cache, *args: Any, **kwargs: Any) -> Any:
            done = getattr(kind, name)(self, *args, **kwargs)
            watcher, (by,) = cache_watcher(self), (*args, *kwargs.values())
            if watcher is not None:
                watcher.rows(lambda rows: pick(rows, by))
            return done

        return move

    def get_seq_length(self: Cache, layer_idx: int = 0) -> int:
        held, watcher = keys_seen(self, layer_idx), cache_watcher(self)
        return held if watcher is None else watcher.length(layer_idx, held)

    def reduce(self: Cache, protocol: Any) -> Any:
        return _new_watched, (kind,), self.__dict__

    body: dict[str, Any] = {name: writing(name) for name in dir(kind) if name.startswith("update")}
    body |= {name: moving(name, pick) for name, pick in _ROW_MOVES.items()}
    body |= {"get_seq_length": get_seq_length, "__reduce_ex__": reduce, "tokenry_plain": kind}
    body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), body)


def _new_watched(kind: Any) -> Cache:
    watched: Any = _watched_kind(kind)
    return watched.__new__(watched)


def _chosen(rows: Tensor, index: Tensor) -> Tensor:
    return rows[index.to(rows.device)]


_ROW_MOVES: Final[Mapping[str, Callable[[Tensor, Any], Tensor]]] = {
    "reorder_cache": _chosen,
    "batch_select_indices": _chosen,
    "batch_repeat_interleave": lambda rows, repeats: rows.repeat_interleave(repeats, 0),
}
"""What moves a cache's rows, and the same done to a tensor with a row for each."""


def sliding_window(config: Any) -> int | None:
    """How far back layers with a sliding window look, or None where the configuration uses none."""
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return None if window is None else int(window)


def shortest_window(config: Any) -> int | None:
    """How far back the most short-sighted layers of a decoder look, or None if all look back all the way."""
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    windows = {
        "sliding": sliding_window(config),
        "chunked": getattr(config, "attention_chunk_size", None),
        # GPT-Neo's, among its `attention_layers`.
        "local": getattr(config, "window_size", None) if types else None,
    }
    used = (w for kind, w in windows.items() if w and (not types or any(kind in layer for layer in types)))
    return min(used, default=None)


def without_windows(cache: Cache) -> None:
    """Let layers of a cache that would forget what lies behind their window keep all: texts end before it matters."""
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicSlidingWindowLayer:
            plain = DynamicLayer()
            if layer.is_initialized:
                plain.update(layer.keys, layer.values)
            cache.layers[i] = plain


def key_columns(cache: Cache | None, layer: int, queries: int, columns: Tensor) -> Tensor:
    """Of all columns a layer was given, those its attention will see: a sliding-window cache forgets the oldest."""
    if cache is None:
        return columns[:, -queries:] if queries else columns
    length, offset = cache.get_mask_sizes(queries, layer)
    seen = columns[:, offset : offset + length]
    missing = int(length) - seen.shape[1]
    # A static cache hands out its whole buffer: columns that nothing was written to yet.
    return torch.nn.functional.pad(seen, (0, missing), value=-1) if missing > 0 else seen
