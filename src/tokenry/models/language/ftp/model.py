"""Future Token Prediction (arXiv 2410.18160): one state vector per position must say what the next N tokens are.

A causal encoder turns the tokens up to t into a state s_t. A linear map spreads s_t into a short pseudo-sequence M_t,
and a small decoder, which starts from x_t and sees the past through M_t alone, predicts x_{t+1} ... x_{t+N}. Later
targets weigh gamma^(k-1). The state so becomes a summary of what comes, and changes smoothly.

No code of the authors is public. Linear expansion, exponential weights and GPT-2-like parts are theirs; the number of
slots (12), N = 8, gamma = 0.8 and the depth of the decoder (3) are our choices.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, GPT2Config, GPT2Model, PreTrainedModel
from transformers import initialization as init

from tokenry.hosts.upstream import (
    Cache,
    CausalLMOutputWithPast,
    DynamicCache,
    EncoderDecoderCache,
    cache_field,
    cache_of,
    takes_cache,
    with_cache,
)
from tokenry.tokens.errors import InputError

__all__ = ["FTPConfig", "FTPForCausalLM", "FTPOutput"]


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class FTPConfig(GPT2Config):
    """Configuration of `FTPForCausalLM`; what GPT-2 has too describes the encoder.

    Attributes:
        horizon: N, tokens predicted from one state.
        slots: P, vectors of the pseudo-sequence.
        decoder_layers: of the decoder, which has the encoder's width and heads.
        gamma: target k weighs ``gamma ** (k - 1)``.
    """

    model_type = "tokenry-ftp"

    horizon: int = 8
    slots: int = 12
    decoder_layers: int = 3
    gamma: float = 0.8


@dataclass
class FTPOutput(CausalLMOutputWithPast):
    """What the model returns: a causal language model's output, and the states behind it.

    Attributes:
        loss: over N future tokens, if there were labels.
        logits: of the next token [b, n, v].
        hidden_states, attentions: of the encoder, on request.
        states: the semantic states s_t [b, n, d].
    """

    logits: Tensor | None = None  # of any precision; releases before 5.24 say float32
    states: Tensor | None = None


class FTPForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model with a semantic state per token (arXiv 2410.18160).

    ``generate`` decodes as a GPT does, one token per state (k = 1), with the encoder's cache. `generate_blocks` decodes
    N tokens per state.

    Args:
        config: sizes.
    """

    config_class = FTPConfig
    config: FTPConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ("GPT2Block",)
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: FTPConfig) -> None:
        super().__init__(config)
        if min(config.horizon, config.slots, config.decoder_layers) < 1 or not 0 < config.gamma <= 1:
            raise InputError(
                "Horizon, slots and decoder_layers must be at least 1 and gamma in (0, 1]; got "
                f"{config.horizon}, {config.slots}, {config.decoder_layers} and {config.gamma}."
            )
        width = config.n_embd
        self.encoder = GPT2Model(config)
        self.project = nn.Linear(width, config.slots * width)
        self.slots = nn.Parameter(torch.empty(config.slots, width))
        small = deepcopy(config)
        small.n_layer, small.n_positions, small.vocab_size = config.decoder_layers, config.horizon, 1
        small.add_cross_attention = True
        self.decoder = GPT2Model(small)
        self.decoder.wte = None  # the encoder's embedding serves both, and the head
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(self.slots, std=self.config.initializer_range)

    def get_input_embeddings(self) -> nn.Module:
        """The one embedding there is."""
        return self.encoder.wte

    @property
    def weights(self) -> Float[Tensor, " horizon"]:
        """How much each of the N targets of a state counts; the sum is 1."""
        powers = self.config.gamma ** torch.arange(
            self.config.horizon, dtype=torch.float32, device=self.device
        )
        return powers / powers.sum()

    def pseudo_sequence(self, states: Float[Tensor, "m d"]) -> Float[Tensor, "m slots d"]:
        """M_t: all that the decoder learns of the past."""
        return self.project(states).view(len(states), *self.slots.shape) + self.slots

    def predict(self, states: Float[Tensor, "m d"], tokens: Int[Tensor, "m k"]) -> Float[Tensor, "m k v"]:
        """What follows, given states and the tokens already known behind them.

        Args:
            states: s_t of m positions, of any sequences.
            tokens: x_t, x_{t+1}, ..., at most N of them.

        Returns:
            Logits of x_{t+1}, x_{t+2}, ...

        Raises:
            InputError: more tokens than the horizon.
        """
        if tokens.shape[1] > self.config.horizon:
            raise InputError(
                f"One state predicts {self.config.horizon} tokens (config.horizon), not {tokens.shape[1]}."
            )
        decoded = self.decoder(
            inputs_embeds=self.encoder.wte(tokens),
            encoder_hidden_states=self.pseudo_sequence(states),
            use_cache=False,
        ).last_hidden_state
        return self._head(decoded)

    def _head(self, decoded: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
        return F.linear(decoded, self.encoder.wte.weight)

    def future_loss(
        self,
        states: Float[Tensor, "b n d"],
        input_ids: Int[Tensor, "b n"],
        labels: Int[Tensor, "b n"],
        positions: Int[Tensor, "b s"] | None = None,
    ) -> Float[Tensor, ""]:
        """The weighted mean of the cross-entropies of all targets there are.

        A label of -100 hides its token and every later target of the same state: give the first token of a document
        that label, and no state is asked for tokens of the next document.

        Args:
            states: of all positions.
            input_ids: the tokens.
            labels: the tokens, or -100.
            positions: which states are asked; all by default. Each costs N positions of the decoder, so training
                asks a part of them.
        """
        b, n, d = states.shape
        if positions is None:
            positions = torch.arange(n - 1, device=states.device).expand(b, -1)
        ahead = positions[..., None] + torch.arange(
            self.config.horizon + 1, device=states.device
        )  # [b, s, N + 1]
        inside = ahead < n
        ahead = ahead.clamp(max=n - 1)
        row = torch.arange(b, device=states.device)[:, None, None]
        targets = labels[row, ahead[..., 1:]].masked_fill(~inside[..., 1:], -100)
        known = targets.ne(-100).cumprod(-1).bool()
        states = states.gather(1, positions[..., None].expand(-1, -1, d))
        logits = self.predict(states.flatten(0, 1), input_ids[row, ahead[..., :-1]].flatten(0, 1))
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), targets.masked_fill(~known, -100).flatten(), reduction="none"
        )
        weights = (known * self.weights).flatten()
        return (losses * weights).sum() / weights.sum().clamp(min=1e-9)

    @takes_cache
    def forward(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#b n"] | None = None,
        cache: Cache | None = None,
        labels: Int[Tensor, "b n"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> FTPOutput:
        """Encode, and predict the next token of each position.

        Args:
            input_ids: tokens.
            attention_mask: 0 at padding.
            position_ids: by default counted from what the cache holds.
            cache: the encoder's.
            labels: targets, not shifted; -100 is left out. All positions are asked (see `future_loss`).
            use_cache: whether to fill a cache.
            logits_to_keep: logits for the last so many positions only; 0 means all.
            kwargs: handed to the encoder.
        """
        output = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **with_cache(self.encoder, cache),
            use_cache=use_cache,
            **kwargs,
        )
        states = output.last_hidden_state
        asked = states[:, -logits_to_keep:]
        logits = self.predict(asked.flatten(0, 1), input_ids[:, -logits_to_keep:].reshape(-1, 1))
        return FTPOutput(
            loss=None if labels is None else self.future_loss(states, input_ids, labels),
            logits=logits.view(*asked.shape[:2], -1),
            states=states,
            **cache_field(FTPOutput, cache_of(output)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def decode_block(
        self, states: Float[Tensor, "b d"], last: Int[Tensor, " b"], length: int
    ) -> Int[Tensor, "b length"]:
        """The most likely tokens after x_t, one after the other, from one state; M_t is projected once."""
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        past = self.pseudo_sequence(states)
        tokens = [last]
        for _ in range(length):
            decoded = self.decoder(
                inputs_embeds=self.encoder.wte(tokens[-1][:, None]),
                encoder_hidden_states=past,
                **with_cache(self.decoder, cache),
                use_cache=True,
            ).last_hidden_state
            tokens.append(self._head(decoded[:, -1]).argmax(-1))
        return torch.stack(tokens[1:], 1)

    @torch.no_grad()
    def generate_blocks(
        self,
        input_ids: Int[Tensor, "b n"],
        max_new_tokens: int = 64,
        *,
        block: int | None = None,
        verify: bool = False,
        attention_mask: Int[Tensor, "b n"] | None = None,
        eos_token_id: int | None = None,
    ) -> Int[Tensor, "b m"]:
        """Greedy decoding of several tokens per pass of the encoder.

        Args:
            input_ids: prompts, padded on the left.
            max_new_tokens: how many tokens to add.
            block: tokens per state; the horizon by default.
            verify: keep of each block only what the next states agree with. The result is then that of greedy
                ``generate``, token by token; a batch goes on from the shortest agreement in it.
            attention_mask: 0 at padding.
            eos_token_id: ends a sequence; what follows it is the same token again.

        Returns:
            Prompts and what was added; at most `max_new_tokens`, fewer if all sequences ended.

        Raises:
            InputError: a block longer than the horizon; nothing to add.
        """
        block = self.config.horizon if block is None else block
        if not 1 <= block <= self.config.horizon or max_new_tokens < 1:
            raise InputError(
                f"A block has 1 to {self.config.horizon} tokens (config.horizon), got {block}; max_new_tokens must be "
                f"at least 1, got {max_new_tokens}."
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        cache, tokens, end = DynamicCache(config=self.config), input_ids, input_ids.shape[1] + max_new_tokens
        states = self._encode_new(tokens, mask, cache)[:, -1]
        while True:
            new = self.decode_block(states, tokens[:, -1], min(block, end - tokens.shape[1]))
            tokens = torch.cat([tokens, new], 1)
            mask = F.pad(mask, (0, new.shape[1]), value=1)
            ended = eos_token_id is not None and not verify and bool(_ended(tokens, input_ids, eos_token_id))
            if not verify and (tokens.shape[1] >= end or ended):
                break
            seen = self._encode_new(tokens[:, -new.shape[1] :], mask, cache)
            agreed = new.shape[1]
            if verify:
                says = self.predict(seen.flatten(0, 1), new.reshape(-1, 1)).argmax(-1).view_as(new)
                agreed = 1 + int((says[:, :-1] == new[:, 1:]).cumprod(1).sum(1).min())
                tokens, mask = (x[:, : x.shape[1] - new.shape[1] + agreed] for x in (tokens, mask))
                if agreed < new.shape[1]:
                    cache.crop(agreed - new.shape[1])
                ended = eos_token_id is not None and bool(_ended(tokens, input_ids, eos_token_id))
            if tokens.shape[1] >= end or ended:
                break
            states = seen[:, agreed - 1]
        return tokens if eos_token_id is None else _after_end(tokens, input_ids.shape[1], eos_token_id)

    def _encode_new(
        self, tokens: Int[Tensor, "b new"], mask: Int[Tensor, "b n"], cache: Cache
    ) -> Float[Tensor, "b new d"]:
        """States of the tokens that the cache does not know yet."""
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return self.encoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position_ids,
            **with_cache(self.encoder, cache),
            use_cache=True,
        ).last_hidden_state


def _ended(tokens: Int[Tensor, "b m"], prompts: Int[Tensor, "b n"], eos: int) -> Tensor:
    """Whether every sequence has ended behind its prompt."""
    return (tokens[:, prompts.shape[1] :] == eos).any(1).all()


def _after_end(tokens: Int[Tensor, "b m"], prompt: int, eos: int) -> Int[Tensor, "b k"]:
    """Sequences with nothing but `eos` after their first one, cut where all have ended."""
    new = tokens[:, prompt:]
    over = (new == eos).cumsum(1).bool()
    new = new.masked_fill(over, eos)
    return torch.cat([tokens[:, :prompt], new], 1)[:, : prompt + int((~over).sum(1).max()) + 1]
