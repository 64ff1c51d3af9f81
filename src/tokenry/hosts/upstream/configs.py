"""What a model's configuration says of its decoder: kinds of layers, rotary axes, windows, the longest text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_encoder_decoder(config: Any) -> bool:
    """Whether a model's text is written by a decoder that reads another stack by cross-attention."""
    return bool(getattr(config, "is_encoder_decoder", False))


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


def layer_kinds(config: Any) -> list[str] | None:
    """What each layer of a decoder is, in its configuration's words; None if all are alike."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    return None if kinds is None else list(kinds)


def longest_text(config: Any) -> int | None:
    """How many positions a language model knows, or None where nothing says.

    Args:
        config: of the model, or of what it reads text with.
    """
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


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
