"""Parts of a model by what they are for: decoder, layers, norms, attention, vision tower, projector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from tokenry.hosts.upstream.arguments import parameters

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


def counts_by_mask(decoder: nn.Module) -> bool:
    """Whether a decoder that is given no position ids counts the tokens of its padding mask (OPT), not the columns."""
    return any(isinstance(m, nn.Embedding) and "attention_mask" in parameters(m) for m in decoder.children())


def reuses_keys(layer: nn.Module) -> bool:
    """Whether a layer has no keys and values of its own and attends to those of an earlier one of its type."""
    return any(getattr(module, "is_kv_shared_layer", False) for module in layer.modules())


def is_recurrent(model: Any) -> bool:
    """Whether a model keeps states that hold all of the text at once, not keys and values of single tokens."""
    return bool(getattr(model, "_is_stateful", False))
