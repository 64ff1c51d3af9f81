"""MrT5 (arXiv 2410.20771): a byte-level encoder-decoder that deletes bytes inside its encoder.

After a few encoder layers a gate decides which tokens later layers need. In training the decision is soft: the gate, in
[k, 0], is added to the attention scores of its key everywhere behind it, cross-attention included. At inference it is
hard: deleted tokens are taken out, and everything behind the gate runs on the shorter sequence. Kept tokens keep their
original distances.

The two agree where gates are saturated; a kept token carries up to k/2 in soft mode. Attention uses `softmax1`:
without it, deleting all keys of a query would change nothing. In the published code generation drops the mask of the
shortened encoder output; here it is carried along.

T5's blocks are rebuilt here with additive key gates; weights of T5 and ByT5 fit (`from_t5`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, T5ForConditionalGeneration
from transformers import initialization as init

from tokenry.hosts.upstream import (
    DynamicCache,
    EncoderDecoderCache,
    ModelOutput,
    Seq2SeqLMOutput,
    T5LayerFF,
    T5LayerNorm,
    cache_field,
    takes_cache,
)
from tokenry.models.mrt5.blocks import MrT5Attention, MrT5Config, Stack
from tokenry.models.mrt5.gates import MASKED, DeleteGate, FixedGate, Gate, RandomGate, keep
from tokenry.tokens.errors import InputError

__all__ = ["MrT5Config", "MrT5EncoderOutput", "MrT5ForConditionalGeneration", "MrT5Output"]

_DELETIONS = ("soft", "hard", "none")


@dataclass
class MrT5EncoderOutput(ModelOutput):
    """What the encoder hands on.

    Attributes:
        last_hidden_state: [b, m, d], m = n unless tokens were deleted.
        key_bias: [b, m], to be added to all scores of a key: 0, a gate, or `MASKED`.
        positions: [b, m], where in the input the states come from.
        gates: [b, n] in [k, 0].
        score_penalty: mean excess of attention scores behind the gate, if asked for.
    """

    last_hidden_state: Tensor | None = None
    key_bias: Tensor | None = None
    positions: Tensor | None = None
    gates: Tensor | None = None
    score_penalty: Tensor | None = None


@dataclass
class MrT5Output(Seq2SeqLMOutput):
    """What the model returns: an encoder-decoder's output, and what the gate did.

    Attributes:
        loss: cross-entropy of the labels; what pays for deletion is added by the objective.
        logits: [b, t, v].
        encoder_outputs: see `MrT5EncoderOutput`.
        gates: [b, n] in [k, 0].
        score_penalty: mean excess of attention scores in the encoder behind the gate and in cross-attention.
    """

    logits: Tensor | None = None  # of any precision; releases before 5.24 say float32
    encoder_outputs: MrT5EncoderOutput | None = None
    gates: Tensor | None = None
    score_penalty: Tensor | None = None


class MrT5Encoder(Stack):
    """The encoder with its gate.

    Args:
        config: sizes.
    """

    main_input_name = "input_ids"

    def __init__(self, config: MrT5Config) -> None:
        super().__init__(config, config.num_layers, decoder=False)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.gate = _make_gate(config)

    def forward(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Tensor | None = None,
        deletion: str | None = None,
        penalise: bool = False,
        **kwargs: Any,
    ) -> MrT5EncoderOutput:
        """Encode, and delete.

        Args:
            input_ids: bytes, as ByT5 numbers them.
            attention_mask: 0 at padding.
            deletion: "soft", "hard" or "none"; soft in training and hard otherwise by default.
            penalise: whether to return the penalty on attention scores.
            kwargs: what ``generate`` hands to every encoder; unused.
        """
        deletion = deletion or ("soft" if self.training else "hard")
        if deletion not in _DELETIONS:
            raise InputError(f"Deletion must be one of {', '.join(_DELETIONS)}, got {deletion!r}.")
        mask = (
            torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        )
        places = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x, key_bias = self.dropout(self.embed_tokens(input_ids)), ~mask * MASKED
        bias = self.position_bias(places, places) + key_bias[:, None, None]
        gates: Tensor | None = None
        penalties: list[Tensor] | None = [] if penalise else None
        places = places.expand(len(input_ids), -1)
        for index, block in enumerate(self.blocks):
            if index == self.config.gate_layer and self.gate is not None and deletion != "none":
                gates = self.gate(x, input_ids, mask)
                if deletion == "soft":
                    key_bias = key_bias + gates
                    bias = bias + gates[:, None, None]
                else:
                    x, places, key_bias, bias = self._delete(x, gates, mask)
            x = block(x, bias, penalties if gates is not None else None)
        return MrT5EncoderOutput(
            last_hidden_state=self.dropout(self.final_layer_norm(x)),
            key_bias=key_bias,
            positions=places,
            gates=gates,
            score_penalty=torch.stack(penalties).mean() if penalties else None,
        )

    def _delete(
        self, x: Float[Tensor, "b n d"], gates: Float[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, places, key bias and attention bias of what is kept; from here on no gate weighs on it."""
        places, live = keep(gates, mask, self.config.gate_threshold)
        x = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        key_bias = ~live * MASKED
        return x, places, key_bias, self.position_bias(places, places) + key_bias[:, None, None]


def _make_gate(config: MrT5Config) -> Gate | None:
    if config.gate != "none" and not 0 <= config.gate_layer < config.num_layers:
        raise InputError(
            f"gate_layer must be the index of one of the {config.num_layers} encoder blocks, got {config.gate_layer}."
        )
    match config.gate:
        case "learned":
            return DeleteGate(config.d_model, config.gate_scale, config.layer_norm_epsilon, config.gate_noise)
        case "random":
            return RandomGate(config.gate_rate, config.gate_scale)
        case "fixed":
            return FixedGate(config.gate_rate, config.gate_scale)
        case "none":
            return None
        case _:
            raise InputError(f'Gate must be "learned", "random", "fixed" or "none", got {config.gate!r}.')


class MrT5ForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """ByT5 with a delete gate (arXiv 2410.20771).

    ``generate`` is transformers'; the decoder attends to the shortened encoder output.

    Args:
        config: sizes and gate; the default is ByT5-small.
    """

    config_class = MrT5Config
    config: MrT5Config
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _no_split_modules = ("MrT5Block",)
    _supports_sdpa = True

    def __init__(self, config: MrT5Config) -> None:
        super().__init__(config)
        self.encoder = MrT5Encoder(config)
        self.decoder = Stack(config, config.num_decoder_layers or config.num_layers, decoder=True)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """T5's initialisation; but the head starts at 1/sqrt(d), so that first predictions are not certain."""
        config, d = self.config, self.config.d_model
        f = config.initializer_factor
        if isinstance(module, MrT5Attention):
            init.normal_(module.q.weight, std=f * (d * config.d_kv) ** -0.5)
            init.normal_(module.k.weight, std=f * d**-0.5)
            init.normal_(module.v.weight, std=f * d**-0.5)
            init.normal_(module.o.weight, std=f * (config.num_heads * config.d_kv) ** -0.5)
        elif isinstance(module, Stack):
            init.normal_(module.relative_attention_bias.weight, std=f * d**-0.5)
        elif isinstance(module, T5LayerFF):
            for name, weight in module.DenseReluDense.named_parameters():
                init.normal_(weight, std=f * (config.d_ff if name.startswith("wo") else d) ** -0.5)
        elif isinstance(module, T5LayerNorm | nn.RMSNorm):
            init.constant_(module.weight, 1.0)
        elif isinstance(module, DeleteGate):
            module.reset_parameters()
        elif module is self:
            init.normal_(self.encoder.embed_tokens.weight, std=f)
            init.normal_(self.lm_head.weight, std=f * d**-0.5)

    @classmethod
    def from_t5(cls, model: T5ForConditionalGeneration, **changes: Any) -> Self:
        """Take over the weights of a T5 or ByT5; the gate is new.

        Args:
            model: the pretrained model; it is not changed.
            changes: fields of the configuration, such as `gate_layer`.
        """
        given = model.config.to_dict()
        names = set(MrT5Config().to_dict()) - {"model_type", "tie_word_embeddings"}
        fields = {name: value for name, value in given.items() if name in names}
        made = cls(MrT5Config(**fields | {"scaled_head": model.config.scale_decoder_outputs} | changes))
        weights = {
            _renamed(name): tensor
            for name, tensor in model.state_dict().items()
            if name not in ("shared.weight", "decoder.embed_tokens.weight")
        }
        missing, strange = made.load_state_dict(weights, strict=False)
        if strange or any(not name.startswith("encoder.gate.") for name in missing):
            raise InputError(f"This is no T5 that MrT5 knows: {[*strange, *missing][0]} does not fit.")
        return made.train(model.training)

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The encoder, for ``generate``."""
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of both stacks."""
        return self.encoder.embed_tokens

    @takes_cache
    def forward(
        self,
        input_ids: Int[Tensor, "b n"] | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Int[Tensor, "b t"] | None = None,
        encoder_outputs: MrT5EncoderOutput | None = None,
        cache: EncoderDecoderCache | None = None,
        labels: Int[Tensor, "b t"] | None = None,
        use_cache: bool | None = None,
        deletion: str | None = None,
        penalise: bool = False,
        **kwargs: Any,
    ) -> MrT5Output:
        """Encode with deletion, and decode.

        Args:
            input_ids: bytes as ByT5 numbers them; not needed with `encoder_outputs`.
            attention_mask: 0 at padding of the input.
            decoder_input_ids: made from the labels by default.
            encoder_outputs: what the encoder gave; its mask counts then.
            cache: of earlier decoding steps.
            labels: targets; -100 is left out.
            use_cache: whether to fill a cache.
            deletion: "soft", "hard" or "none"; soft in training and hard otherwise by default.
            penalise: whether to return the penalty on attention scores (slower: scores are then kept).
            kwargs: what ``generate`` hands to every model; unused.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, deletion, penalise)
        if decoder_input_ids is None:
            if labels is None:
                raise InputError("Give decoder_input_ids, or labels to make them of.")
            start = self.config.decoder_start_token_id
            decoder_input_ids = F.pad(labels, (1, -1), value=start).masked_fill_(
                F.pad(labels, (1, -1)) == -100, self.config.pad_token_id
            )
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        penalties: list[Tensor] | None = [] if penalise else None
        decoded = self._decode(decoder_input_ids, encoder_outputs, cache, penalties)
        if self.config.scaled_head:
            decoded = decoded * self.config.d_model**-0.5
        logits = self.lm_head(decoded)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)
        penalty = encoder_outputs.score_penalty
        if penalties:
            across = torch.stack(penalties).mean()
            penalty = across if penalty is None else (penalty + across) / 2
        return MrT5Output(
            loss=loss,
            logits=logits,
            **cache_field(MrT5Output, cache),
            encoder_outputs=encoder_outputs,
            gates=encoder_outputs.gates,
            score_penalty=penalty,
        )

    def _decode(
        self,
        ids: Int[Tensor, "b t"],
        encoded: MrT5EncoderOutput,
        cache: EncoderDecoderCache | None,
        penalties: list[Tensor] | None,
    ) -> Float[Tensor, "b t d"]:
        if encoded.last_hidden_state is None or encoded.key_bias is None:
            raise InputError(
                "encoder_outputs lacks its states or its key_bias: hand in what the encoder returned."
            )
        stack, past = self.decoder, 0 if cache is None else int(cache.get_seq_length())
        keys = torch.arange(past + ids.shape[1], device=ids.device)[None]
        queries = keys[:, past:]
        later = (keys[:, None, :] > queries[:, :, None]) * MASKED
        bias = stack.position_bias(queries, keys) + later[:, None]
        x = stack.dropout(self.encoder.embed_tokens(ids))
        for index, block in enumerate(stack.blocks):
            x = block.decode(
                x,
                bias,
                encoded.last_hidden_state,
                encoded.key_bias[:, None, None],
                cache,
                index,
                penalties,
            )
        return stack.dropout(stack.final_layer_norm(x))


def _renamed(name: str) -> str:
    """What a parameter of transformers' T5 is called here."""
    parts = ("own", "across", "feed") if name.startswith("decoder.") else ("own", "feed")
    for number, part in enumerate(parts):
        name = name.replace(f".layer.{number}.", f".{part}.")
    name = name.replace(".SelfAttention.", ".attention.").replace(".EncDecAttention.", ".attention.")
    return name.replace("block.0.own.attention.relative_attention_bias", "relative_attention_bias")
