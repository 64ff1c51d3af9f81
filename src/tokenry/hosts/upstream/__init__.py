"""Every name of transformers that tokenry leans on, resolved by signature, type or role, and refused when unknown.

What transformers calls things changes with minor releases: 5.24 renamed the argument `past_key_values` to `cache` in
every forward. So arguments are looked up in the signature of the function at hand, caches are recognised by their
type, parts of a model by what they are for, and submodules of the library are imported in this package only. A release
in which something cannot be found is refused by name, never worked around.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache

from tokenry.hosts.upstream.arguments import (
    cache_argument,
    cache_field,
    cache_given,
    cache_of,
    lacks_cache,
    named_arguments,
    parameters,
    require_arguments,
    takes_anything,
    takes_cache,
    whole_sequences,
    with_cache,
    without_cache,
)
from tokenry.hosts.upstream.attention import (
    Listener,
    attention_kernel,
    forget_watches,
    is_flash,
    kernel_asked_for,
    takes_additive_masks,
    watch_attention,
)
from tokenry.hosts.upstream.caches import (
    CacheWatcher,
    cache_watcher,
    keeps_keys,
    key_columns,
    keys_by_layer,
    keys_seen,
    watch_cache,
    without_windows,
)
from tokenry.hosts.upstream.configs import (
    is_encoder_decoder,
    layer_kinds,
    longest_text,
    rotary_axes,
    shortest_window,
    sliding_window,
)
from tokenry.hosts.upstream.generation import mask_width, read_prompt, require_generation, special_search
from tokenry.hosts.upstream.parts import (
    ATTENTION_STEPS,
    attention_parts,
    attention_steps,
    attention_width,
    blocks_of,
    counts_by_mask,
    decoder_of,
    has_class_token,
    is_recurrent,
    key_width,
    last_norm_of,
    layers_of,
    projector_of,
    reuses_keys,
    rotary_of,
    tower_of,
)
from tokenry.hosts.upstream.pictures import (
    ENCODED,
    INTERPOLATE,
    MODALITIES,
    NEWLINE,
    PACKING,
    PIXELS,
    TOKEN_TYPES,
    TYPE_OF,
    Tiling,
    encoder_name,
    encoder_of,
    holds_videos,
    interpolates,
    picture_features,
    picture_grids,
    picture_sizes,
    placeholder_of,
    placeholder_settings,
    puts_tiles_together,
    take_between_layers,
    takes_encoded,
    tiling_of,
    whole_comes_first,
)
from tokenry.hosts.upstream.releases import PROVEN, release, require_release, unknown_release
from tokenry.hosts.upstream.remote_code import without_questions
from tokenry.tokens import UnsupportedError

__all__ = [
    "ATTENTION_STEPS",
    "ENCODED",
    "INTERPOLATE",
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
    "interpolates",
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
    "longest_text",
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

_LAZY: Final = {
    "BaseModelOutputWithPooling": "modeling_outputs",
    "BertEncoder": "models.bert.modeling_bert",
    "BertLayer": "models.bert.modeling_bert",
    "BertPredictionHeadTransform": "models.bert.modeling_bert",
    "BitImageProcessorPil": "models.bit.image_processing_pil_bit",
    "CLIPImageProcessorPil": "models.clip.image_processing_pil_clip",
    "CausalLMOutputWithPast": "modeling_outputs",
    "Conv1D": "pytorch_utils",
    "GenerateDecoderOnlyOutput": "generation",
    "LlamaAttention": "models.llama.modeling_llama",
    "LlamaDecoderLayer": "models.llama.modeling_llama",
    "LlamaRotaryEmbedding": "models.llama.modeling_llama",
    "LlavaNextImageProcessorPil": "models.llava_next.image_processing_pil_llava_next",
    "ModelOutput": "utils",
    "Qwen2VLImageProcessorPil": "models.qwen2_vl.image_processing_pil_qwen2_vl",
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
