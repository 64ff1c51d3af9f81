"""The blocks of MrT5 (arXiv 2410.20771): T5's, with a bias per key and `softmax1`."""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import T5Config

from tokenry.hosts.upstream import EncoderDecoderCache, T5LayerFF, T5LayerNorm
from tokenry.models.mrt5.gates import MASKED, softmax1
from tokenry.tokens.errors import UnsupportedError

__all__ = ["MrT5Attention", "MrT5Block", "MrT5Config", "Stack", "relative_buckets"]

_TOLERATED = 5.0  # scores above this are penalised, if penalties are asked for


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class MrT5Config(T5Config):
    """Configuration of `MrT5ForConditionalGeneration`; sizes are those of ByT5-small.

    Attributes:
        gate: "learned"; or the baselines "random" and "fixed", which delete `gate_rate`; or "none".
        gate_layer: the gate stands before the encoder block of this index.
        gate_scale: k.
        gate_threshold: a token is kept if its gate is above; 0 means k / 2.
        gate_rate: share that the baselines delete.
        gate_noise: Gumbel noise on the gate's logits in training.
        softmax1: whether attention may vanish; False for plain T5.
        scaled_head: scale the decoder's output by 1/sqrt(d), as T5 with a tied head does.
    """

    model_type = "tokenry-mrt5"

    vocab_size: int = 384
    d_model: int = 1472
    d_kv: int = 64
    d_ff: int = 3584
    num_layers: int = 12
    num_decoder_layers: int | None = 4
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    decoder_start_token_id: int = 0
    gate: str = "learned"
    gate_layer: int = 3
    gate_scale: float = -30.0
    gate_threshold: float = 0.0
    gate_rate: float = 0.5
    gate_noise: bool = False
    softmax1: bool = True
    scaled_head: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.scale_decoder_outputs = self.scaled_head
        if self.gate_threshold == 0:
            self.gate_threshold = self.gate_scale / 2


def relative_buckets(
    distance: Int[Tensor, "*s"], buckets: int, furthest: int, both_ways: bool
) -> Int[Tensor, "*s"]:
    """T5's buckets of distances (key minus query): exact when near, logarithmic when far, shared beyond `furthest`."""
    ahead = torch.zeros_like(distance)
    if both_ways:
        buckets //= 2
        ahead = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    far = (distance.clamp(min=1).float() / exact).log() / math.log(furthest / exact) * (buckets - exact)
    return ahead + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))


class MrT5Attention(nn.Module):
    """T5's attention (no scaling by 1/sqrt(d)), with `softmax1` if the configuration says so.

    Args:
        config: sizes.
    """

    def __init__(self, config: MrT5Config) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads, self.softmax1, self.dropout = config.num_heads, config.softmax1, config.dropout_rate
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def _split(self, x: Float[Tensor, "b n i"]) -> Float[Tensor, "b h n e"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(
        self, x: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h n e"]]:
        """Keys and values of some states."""
        return self._split(self.k(x)), self._split(self.v(x))

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        key: Float[Tensor, "b h n e"],
        value: Float[Tensor, "b h n e"],
        bias: Float[Tensor, "#b #h #q n"],
        penalties: list[Tensor] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """Attend; `bias` is added to the scores, whose excess is noted in `penalties` where that is asked for."""
        query, bias = self._split(self.q(x)), bias.to(x.dtype)
        dropout = self.dropout if self.training else 0.0
        if penalties is not None:
            scores = query @ key.transpose(2, 3)
            live = (bias > MASKED / 2).expand_as(scores)
            penalties.append(
                ((scores.float() - _TOLERATED).clamp(min=0) * live).sum() / live.sum().clamp(min=1)
            )
            scores = scores.float() + bias
            weights = (softmax1(scores) if self.softmax1 else scores.softmax(-1)).to(value.dtype)
            mixed = F.dropout(weights, dropout, self.training) @ value
        else:
            if (
                self.softmax1
            ):  # a key of zeros has the score 0, and a value of zeros adds nothing: softmax1 exactly
                key, value, bias = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1)), F.pad(bias, (0, 1))
            mixed = F.scaled_dot_product_attention(query, key, value, bias, dropout_p=dropout, scale=1.0)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Sublayer(nn.Module):
    """Attention with what T5 puts around it: a norm before, dropout behind.

    Args:
        config: sizes.
    """

    def __init__(self, config: MrT5Config) -> None:
        super().__init__()
        self.attention = MrT5Attention(config)
        self.layer_norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)


class MrT5Block(nn.Module):
    """One layer of the encoder or the decoder.

    Args:
        config: sizes.
        cross: whether this is a block of the decoder.
    """

    def __init__(self, config: MrT5Config, cross: bool) -> None:
        super().__init__()
        self.own = Sublayer(config)
        self.across = Sublayer(config) if cross else None
        self.feed = T5LayerFF(config)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "#b #h #n m"],
        penalties: list[Tensor] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Self-attention and feed-forward: a block of the encoder."""
        normed = self.own.layer_norm(x)
        key, value = self.own.attention.keys_values(normed)
        x = x + self.own.dropout(self.own.attention(normed, key, value, bias, penalties))
        return self.feed(x)

    def decode(
        self,
        x: Float[Tensor, "b n d"],
        bias: Float[Tensor, "#b #h #n m"],
        context: Float[Tensor, "b k d"],
        context_bias: Float[Tensor, "#b #h #n k"],
        cache: EncoderDecoderCache | None,
        index: int,
        penalties: list[Tensor] | None,
    ) -> Float[Tensor, "b n d"]:
        """Self-attention, cross-attention and feed-forward: block `index` of the decoder.

        Keys and values of the context are made once per cache. Self-attention here has no gates, so its scores are no
        business of the penalty.
        """
        own, across = self.own, self.across
        if across is None:
            raise UnsupportedError("This block belongs to the encoder: it has no cross-attention.")
        normed = own.layer_norm(x)
        key, value = own.attention.keys_values(normed)
        if cache is not None:
            key, value = cache.self_attention_cache.update(key, value, index)
        x = x + own.dropout(own.attention(normed, key, value, bias))
        if cache is not None and cache.is_updated.get(index):
            held = cache.cross_attention_cache.layers[index]
            key, value = held.keys, held.values
        else:
            key, value = across.attention.keys_values(context)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, index)
                cache.is_updated[index] = True
        x = x + across.dropout(across.attention(across.layer_norm(x), key, value, context_bias, penalties))
        return self.feed(x)


class Stack(nn.Module):
    """Blocks, the position biases they share, and the norm behind them.

    Args:
        config: sizes.
        layers: how many blocks.
        decoder: whether this is the decoder.
    """

    def __init__(self, config: MrT5Config, layers: int, decoder: bool) -> None:
        super().__init__()
        self.config, self.decoder = config, decoder
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.block = nn.ModuleList(MrT5Block(config, cross=decoder) for _ in range(layers))
        self.final_layer_norm = T5LayerNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    @property
    def blocks(self) -> list[MrT5Block]:
        """The layers, in order."""
        return [block for block in self.block if isinstance(block, MrT5Block)]

    def position_bias(
        self, queries: Int[Tensor, "#b q"], keys: Int[Tensor, "#b n"]
    ) -> Float[Tensor, "b h q n"]:
        """The biases between tokens at these places of the original sequence."""
        buckets = relative_buckets(
            keys[:, None, :] - queries[:, :, None],
            self.config.relative_attention_num_buckets,
            self.config.relative_attention_max_distance,
            both_ways=not self.decoder,
        )
        return self.relative_attention_bias(buckets).permute(0, 3, 1, 2)
