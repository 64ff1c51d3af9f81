"""Lexinvariant language models (arXiv 2305.16349): every sequence draws its tokens' vectors anew.

A token has no identity of its own. Its vector is Gaussian noise drawn for this sequence, the same at every position of
it, so all the model can use is what recurs and co-occurs in the context; the logits are products with the same vectors.
With a share p of the vocabulary redrawn and the rest learnt (semi-lexinvariant, p = 0.2) the draw is a regulariser;
p = 0 is an ordinary model with tied embeddings, which makes it the baseline too.

No code of the authors is public. The paper's body is a T5-style decoder (relative positions, RMSNorm, no biases); this
one is transformers' Llama, which is the same family with rotary positions and a gated feed-forward layer (whose width
is 2/3 of the paper's 4,096, at equal parameters). The scale 1/sqrt(d) of the logits is our choice.
"""

from __future__ import annotations

import math
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin, LlamaConfig, LlamaModel, PreTrainedModel
from transformers import initialization as init

from tokenry.hosts.upstream import (
    Cache,
    CausalLMOutputWithPast,
    cache_field,
    cache_of,
    takes_cache,
    with_cache,
)
from tokenry.tokens.errors import InputError

__all__ = ["LexinvariantConfig", "LexinvariantForCausalLM", "chosen", "gaussian_rows"]


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)
_ROWS, _CHOICE = 1, 2  # streams of random numbers
_AT_ONCE = 1 << 24  # numbers drawn at a time for the logits


def _shifted(x: Int[Tensor, "*s"], places: int) -> Int[Tensor, "*s"]:
    """Unsigned shift to the right, which torch does not have."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _mixed(x: Int[Tensor, "*s"]) -> Int[Tensor, "*s"]:
    """64 well mixed bits of a counter: the finaliser of SplitMix64."""
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _bits(seeds: Int[Tensor, " b"], counters: Int[Tensor, "b *n"], stream: int) -> Int[Tensor, "b *n"]:
    """Random bits that are a function of seed, stream and counter alone: nothing has to be kept, in no order."""
    start = _mixed(_mixed(seeds * _GOLDEN) + stream).view(-1, *[1] * (counters.ndim - 1))
    return _mixed(start + counters * _GOLDEN)


def gaussian_rows(
    seeds: Int[Tensor, " b"], ids: Int[Tensor, "#b n"], width: int
) -> Float[Tensor, "b n width"]:
    """The N(0, I) vectors of some tokens in the draws of some sequences (counter-based; Box-Muller).

    Equal on every machine up to the last bits of `log` and `cos`.

    Args:
        seeds: one per sequence; equal seeds, equal draws.
        ids: the tokens.
        width: of the vectors.
    """
    half = (width + 1) // 2
    counters = (ids[..., None] * half + torch.arange(half, device=ids.device)).expand(len(seeds), -1, -1)
    bits = _bits(seeds, counters, _ROWS)
    radius = ((_shifted(bits, 40) + 1).float() * 2**-24).log().mul(-2).sqrt()
    angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :width]


def chosen(seeds: Int[Tensor, " b"], ids: Int[Tensor, "#b n"], share: float) -> Tensor:
    """Which tokens have a random vector in the draw of a sequence: each id with probability `share`.

    Returns:
        Bool [b, n].
    """
    bits = _bits(seeds, ids.expand(len(seeds), -1), _CHOICE)
    return _shifted(bits, 40) < share * 2**24


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class LexinvariantConfig(LlamaConfig):
    """Configuration of `LexinvariantForCausalLM`; the sizes are the paper's (about 150M parameters).

    Attributes:
        random_share: p, the share of the vocabulary redrawn for each sequence: 1 lexinvariant, 0.2 the paper's
            regulariser, 0 an ordinary model.
        initializer_range: standard deviation of new weights; 0 means 1/sqrt(d), as in T5. With the usual 0.02 the
            random vectors, whose components have variance 1, drown what the layers add to them.
        seed: of the draw where a call outside of training gives none.
        start_id: the id of the learnt start vector. It lies outside of the vocabulary (``vocab_size`` by
            default), which is why it is not ``bos_token_id``: it is never predicted and never redrawn.
    """

    model_type = "tokenry-lexinvariant"

    vocab_size: int = 128
    hidden_size: int = 1024
    intermediate_size: int = 2736
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 512
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    initializer_range: float = 0.0
    random_share: float = 1.0
    seed: int = 0
    start_id: int = -1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.start_id < 0:
            self.start_id = self.vocab_size
        if self.initializer_range == 0:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)


class LexinvariantForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model without lexical identity (arXiv 2305.16349).

    ``input_ids`` may hold ids of the vocabulary and ``config.start_id``, with which a sequence should begin. Give
    ``seeds``, one per sequence, to choose the draws: ``model(ids, seeds=seeds)``, and ``model.generate(ids,
    seeds=seeds)``, where the draw stays the same through decoding. Without seeds a training forward draws them from
    torch's generator (never the same vectors twice) and any other forward uses ``config.seed`` for every sequence.

    Several documents packed into one sequence share a draw.

    Args:
        config: sizes, and the share of the vocabulary that is redrawn.
    """

    config_class = LexinvariantConfig
    config: LexinvariantConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("LlamaDecoderLayer",)
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: LexinvariantConfig) -> None:
        super().__init__(config)
        if not 0 <= config.random_share <= 1:
            raise InputError(f"random_share is a share of the vocabulary, 0 to 1, got {config.random_share}.")
        if config.start_id < config.vocab_size:
            raise InputError(
                f"start_id must lie outside of the vocabulary: at least {config.vocab_size}, got "
                f"{config.start_id}. Leave it out."
            )
        self.model = LlamaModel(config)
        if config.random_share == 1:
            self.model.embed_tokens = None
        self.start = nn.Parameter(torch.empty(config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.start)

    def draw(self, seeds: Int[Tensor, " b"], ids: Int[Tensor, "#b n"]) -> Float[Tensor, "b n d"]:
        """The vectors of some tokens of the vocabulary for some sequences: random, learnt, or some of each.

        Learnt vectors are scaled to the length sqrt(d) that random ones have on average.
        """
        share, width = self.config.random_share, self.config.hidden_size
        if share == 1:
            return gaussian_rows(seeds, ids, width).to(self.dtype)
        learnt = self.model.embed_tokens(ids)
        learnt = learnt * (math.sqrt(width) / learnt.norm(dim=-1, keepdim=True))
        if share == 0:
            return learnt.expand(len(seeds), -1, -1)
        redrawn = chosen(seeds, ids, share)[..., None]
        return torch.where(redrawn, gaussian_rows(seeds, ids, width).to(learnt.dtype), learnt)

    def embed(
        self,
        input_ids: Int[Tensor, "b n"],
        seeds: Int[Tensor, " b"],
        embeddings: Float[Tensor, "b v d"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The input vectors: only the rows that occur are drawn."""
        vocabulary, start = self.config.vocab_size, self.config.start_id
        starts = input_ids.eq(start)
        if bool((((input_ids < 0) | (input_ids >= vocabulary)) & ~starts).any()):
            raise InputError(
                f"input_ids must be ids of the vocabulary (0 to {vocabulary - 1}) or the start {start}, got "
                f"{int(input_ids.min())} to {int(input_ids.max())}."
            )
        ids = input_ids.masked_fill(starts, 0)
        if embeddings is None:
            rows = self.draw(seeds, ids)
        else:
            rows = embeddings.gather(1, ids[..., None].expand(-1, -1, embeddings.shape[2]))
        return torch.where(starts[..., None], self.start.to(rows.dtype), rows)

    def logits(
        self,
        states: Float[Tensor, "b n d"],
        seeds: Int[Tensor, " b"],
        embeddings: Float[Tensor, "b v d"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """Products of the states with every vector of their sequence's draw, over sqrt(d).

        A large vocabulary is drawn in parts; under gradients the parts are drawn again backwards rather than kept.
        """

        def part(states: Tensor, ids: Tensor) -> Tensor:
            rows = self.draw(seeds, ids[None]) if embeddings is None else embeddings[:, ids]
            return states @ rows.transpose(1, 2).to(states.dtype)

        states = states / math.sqrt(self.config.hidden_size)
        everything = torch.arange(self.config.vocab_size, device=states.device)
        at_once = max(1, _AT_ONCE // (len(states) * self.config.hidden_size))
        if len(everything) <= at_once:
            return part(states, everything)
        return torch.cat(
            [checkpoint(part, states, ids, use_reentrant=False) for ids in everything.split(at_once)], -1
        )

    @takes_cache
    def forward(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#b n"] | None = None,
        cache: Cache | None = None,
        seeds: Int[Tensor, " b"] | None = None,
        embeddings: Float[Tensor, "b v d"] | None = None,
        labels: Int[Tensor, "b n"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token of every position.

        Args:
            input_ids: tokens; a sequence begins with ``config.start_id``.
            attention_mask: 0 at padding.
            position_ids: of the tokens; by default counted from what the cache holds.
            cache: what earlier calls with the same seeds left.
            seeds: the draws, one per sequence; see the class.
            embeddings: vectors to use instead of a draw.
            labels: targets, `input_ids` as a rule; -100 is left out. They are shifted here.
            use_cache: whether to fill a cache.
            logits_to_keep: logits for the last so many positions only; 0 means all.
            kwargs: handed to the body.

        Returns:
            The logits over the vocabulary (the start is not in it), the last hidden state, the loss and the cache.
        """
        if seeds is None:
            seeds = self._default_seeds(len(input_ids), input_ids.device)
        inputs = self.embed(input_ids, seeds, embeddings)
        output = self.model(
            inputs_embeds=inputs,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **with_cache(self.model, cache),
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.logits(output.last_hidden_state[:, -logits_to_keep:], seeds, embeddings)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **cache_field(CausalLMOutputWithPast, cache_of(output)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _default_seeds(self, rows: int, device: torch.device) -> Int[Tensor, " b"]:
        if self.training:
            return torch.randint(1 << 62, (rows,), device=device)
        return torch.full((rows,), self.config.seed, device=device)
