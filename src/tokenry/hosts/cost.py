"""What running a model costs, counted from its modules: FLOPs and bytes of cache, no measuring.

Counts agree with `torch.utils.flop_counter.FlopCounterMode`: matrix products only, 2 per multiply-add, attention as
the full square that kernels are charged for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tokenry.hosts.host import Host
from tokenry.hosts.upstream import attention_width, key_width, projector_of


@dataclass(frozen=True)
class Cost:
    """Prefill of the last prompt, all sequences together; `full_*` is the same prompt with all visual tokens.

    Attributes:
        prefill_flops: floating-point operations of the decoder's layers and of the output head for one position.
        kv_bytes: size of the key-value cache after prefill.
    """

    prefill_flops: int
    full_prefill_flops: int
    kv_bytes: int
    full_kv_bytes: int

    @property
    def flops_ratio(self) -> float:
        """Share of the full prefill's FLOPs that was spent."""
        return self.prefill_flops / self.full_prefill_flops

    @property
    def kv_ratio(self) -> float:
        """Share of the full cache that is held."""
        return self.kv_bytes / self.full_kv_bytes

    def __str__(self) -> str:
        return (
            f"prefill {self.prefill_flops / 1e9:.3g} of {self.full_prefill_flops / 1e9:.3g} GFLOPs "
            f"({100 * self.flops_ratio:.0f}%), cache {self.kv_bytes / 2**20:.3g} of "
            f"{self.full_kv_bytes / 2**20:.3g} MiB ({100 * self.kv_ratio:.0f}%)"
        )


def session_cost(host: Host, lengths: Int[Tensor, "rows layers"], full: Int[Tensor, " rows"]) -> Cost:
    """The cost of prompts with `lengths` tokens per layer, beside the same with `full` tokens in every layer."""
    whole = full[:, None].expand_as(lengths)
    return Cost(
        decoder_flops(host, lengths),
        decoder_flops(host, whole),
        kv_bytes(host, lengths),
        kv_bytes(host, whole),
    )


def decoder_flops(host: Host, lengths: Int[Tensor, "rows layers"], logits: int = 1) -> int:
    """FLOPs of a prefill, given the tokens of each sequence in each decoder layer.

    Args:
        host: the model.
        lengths: tokens per sequence and layer.
        logits: positions for which the output head is run (`generate` needs one).
    """
    total = 0
    for i, layer in enumerate(host.layers):
        n = lengths[:, i].double()
        total += int((linear_flops(layer) * n + 4 * attention_width(layer) * n * n).sum())
    head = host.model.get_output_embeddings()
    return total + (linear_flops(head) * logits * len(lengths) if head is not None else 0)


def encoder_flops(host: Host, tiles: int = 1) -> int | None:
    """FLOPs of the vision encoder and projector for square pictures of the configured size, or None if the encoder is
    not a plain ViT with a projector of linear layers (packed or windowed encoders cost what their input makes them)."""
    config: Any = getattr(host.tower, "config", None)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if not host.blocks or not isinstance(size, int) or not isinstance(patch, int):
        return None
    patches = (size // patch) ** 2
    n = patches + host.has_cls
    convolutions = [m for m in (host.tower or host.base).modules() if isinstance(m, nn.Conv2d)]
    flops = sum(2 * m.weight.numel() * patches for m in convolutions)
    for block in host.blocks:
        flops += linear_flops(block) * n + 4 * attention_width(block) * n * n
    projector = projector_of(host.base)
    linear = [] if projector is None else [m for m in projector.modules() if isinstance(m, nn.Linear)]
    if projector is None or not linear:
        return None
    # Projectors that fold several patches into one token are as many patches wide, and run on as many fewer.
    return tiles * (flops + linear_flops(projector) * patches * config.hidden_size // linear[0].in_features)


def kv_bytes(host: Host, lengths: Int[Tensor, "rows layers"]) -> int:
    """Bytes of keys and values that a prefill leaves in the cache."""
    total = 0
    for i, layer in enumerate(host.layers):
        total += 2 * key_width(layer) * int(lengths[:, i].sum()) * torch.finfo(host.model.dtype).bits // 8
    return total


def linear_flops(module: nn.Module) -> int:
    """FLOPs of a module's linear layers for one token."""
    return sum(2 * m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
