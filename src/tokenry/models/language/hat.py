"""HAT: a causal language model with bytes at both ends, words in between, and no vocabulary (arXiv 2501.10322).

A small bidirectional encoder turns the bytes of a word into one vector, a causal backbone runs over the words, and a
small causal decoder writes the next word's bytes from the backbone's vector. All three are Llama networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PretrainedConfig, PreTrainedModel

from tokenry.hosts.upstream import DynamicCache, ModelOutput, with_cache
from tokenry.models.language.ragged import RaggedWords, by_length, pad_words, word_lengths
from tokenry.models.language.word_generation import UnitIds, WordWriting
from tokenry.text.words import WordSplitter
from tokenry.tokens.errors import InputError

# None of these occurs in UTF-8, so 256 rows are enough for bytes and special signs.
WORD = 0xFF  # stands before a word in the encoder, ends it in the decoder
STOP = 0xFE  # a word of its own between documents
PAD = 0xFD


class HatConfig(PretrainedConfig):
    """Sizes of a HAT. The published ones have heads of 128; backbones of 18, 28, 36 layers with as many heads.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the backbone over words. The
            intermediate size is 8/3 of the width by default, as in Llama.
        local_hidden_size, local_num_attention_heads, local_intermediate_size: of the byte encoder and decoder.
        encoder_layers, decoder_layers: their depths (3 each up to 3B parameters, 4 at 7B).
        splitter: kind of `WordSplitter`; must be prefix stable.
        max_word_bytes: longer words are cut.
        bos_word: start each text with a word [S], so that its first word is predicted, too.
        max_position_embeddings: words the backbone is meant for; it has rotary positions, so more is possible.

    Raises:
        InputError: if the splitter is not prefix stable.
    """

    model_type = "tokenry-hat"

    def __init__(
        self,
        hidden_size: int = 192,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 3,
        intermediate_size: int | None = None,
        local_hidden_size: int = 96,
        local_num_attention_heads: int = 2,
        local_intermediate_size: int | None = None,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        splitter: str = "unicode",
        max_word_bytes: int = 64,
        bos_word: bool = True,
        max_position_embeddings: int = 4096,
        rope_theta: float = 10000.0,
        rms_norm_eps: float = 1e-5,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.local_hidden_size, self.local_num_attention_heads = local_hidden_size, local_num_attention_heads
        self.local_intermediate_size = local_intermediate_size
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.splitter, self.max_word_bytes, self.bos_word = splitter, max_word_bytes, bos_word
        self.max_position_embeddings, self.rope_theta = max_position_embeddings, rope_theta
        self.rms_norm_eps, self.initializer_range = rms_norm_eps, initializer_range
        if not self.word_splitter().prefix_stable:
            raise InputError(
                f'Writing word by word needs a splitter whose cut is not changed by more text, unlike "{splitter}": '
                'take "unicode" or "whitespace".'
            )
        super().__init__(**kwargs)

    def word_splitter(self) -> WordSplitter:
        """How texts become words."""
        return WordSplitter(self.splitter, self.max_word_bytes)

    def backbone(self) -> LlamaConfig:
        """The network over words."""
        return self._llama(
            self.hidden_size, self.num_hidden_layers, self.num_attention_heads, self.intermediate_size, 1
        )

    def local(self, layers: int) -> LlamaConfig:
        """The network over the bytes of a word."""
        heads, inner = self.local_num_attention_heads, self.local_intermediate_size
        return self._llama(self.local_hidden_size, layers, heads, inner, 256)

    def _llama(self, width: int, layers: int, heads: int, inner: int | None, vocabulary: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner or -(-width * 8 // 3 // 16) * 16,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=self.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.rms_norm_eps,
            initializer_range=self.initializer_range,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )


@dataclass
class HatOutput(ModelOutput):
    """What `HatForCausalLM` returns.

    Attributes:
        loss: mean cross-entropy in nats over the bytes (and word ends) that count.
        n_targets: how many did.
        logits: ``[batch, words - 1, length + 1, 256]``: ``[b, i, j]`` predicts byte ``j`` of word ``i + 1``, or its
            end; zeros behind the end.
    """

    loss: Tensor | None = None
    n_targets: Tensor | None = None
    logits: Tensor | None = None


class HatForCausalLM(WordWriting, PreTrainedModel):
    """Hierarchical autoregressive transformer, arXiv 2501.10322.

    Text becomes a tensor of bytes by `words`; `generate` takes and gives text. The splitting rule is that of the
    published splitter, the network follows the paper (no code of it was published): the encoder and the decoder are the
    same kind of block as the backbone, and each has a byte table of its own.
    """

    config_class = HatConfig
    base_model_prefix = "hat"
    main_input_name = "words"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["LlamaDecoderLayer"]
    unit_ids = UnitIds(pad=PAD, end=WORD, stop=STOP)

    def __init__(self, config: HatConfig) -> None:
        super().__init__(config)
        self.encoder = LlamaModel(config.local(config.encoder_layers))
        self.to_backbone = nn.Linear(config.local_hidden_size, config.hidden_size, bias=False)
        self.backbone = LlamaModel(config.backbone())
        self.backbone.embed_tokens = None  # its input are vectors of words
        self.to_decoder = nn.Linear(config.hidden_size, config.local_hidden_size, bias=False)
        self.decoder = LlamaModel(config.local(config.decoder_layers))
        self.head = nn.Linear(config.local_hidden_size, 256, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's byte table."""
        return self.encoder.embed_tokens

    # ------------------------------------------------------------------------------------------------------ text

    def words(self, texts: Sequence[str], *, end: bool = True) -> Int[Tensor, "batch words length"]:
        """Texts as the input of `forward`: bytes of words, with [S] in front (if configured) and at the end.

        Args:
            texts: at least one.
            end: close each text with [S].
        """
        split = self.config.word_splitter().split
        documents = [self.opening + split(text) + [bytes([STOP])] * end for text in texts]
        return pad_words(documents, PAD).to(self.device)

    # --------------------------------------------------------------------------------------------------- network

    def encode(self, words: Int[Tensor, "batch words length"]) -> Float[Tensor, "batch words local"]:
        """One vector a word, from its bytes alone; zeros for padding."""

        def run(ids: Tensor, real: Tensor) -> Tensor:
            ids = F.pad(ids, (1, 0), value=WORD)
            # always a mask: without one the attention would be causal
            keys = F.pad(real, (1, 0), value=True)[:, None, None].expand(-1, 1, ids.shape[1], -1)
            return self.encoder(input_ids=ids, attention_mask=keys, use_cache=False).last_hidden_state[:, 0]

        return RaggedWords.of(words, PAD).encode(run)

    def predict(
        self,
        vectors: Float[Tensor, "batch new local"],
        mask: Bool[Tensor, "batch all"],
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "batch new local"]:
        """The decoder's first input for the word after each word.

        Args:
            vectors: of the words that the cache does not have.
            mask: which words are no padding, those in the cache first.
            cache: of the backbone; grows.
        """
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -vectors.shape[1] :]
        out = self.backbone(
            inputs_embeds=self.to_backbone(vectors),
            attention_mask=mask.long(),
            position_ids=positions,
            **with_cache(self.backbone, cache),
            use_cache=cache is not None,
        )
        return self.to_decoder(out.last_hidden_state)

    def decode(
        self, start: Float[Tensor, "n local"], ids: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n length+1 256"]:
        """Logits of every byte of a word and of its end, each given the bytes before it."""
        # padding comes behind what is read, so no position that counts sees it
        inputs = torch.cat([start[:, None], self.decoder.embed_tokens(ids).to(start.dtype)], dim=1)
        return self.head(self.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state)

    def forward(
        self,
        words: Int[Tensor, "batch words length"],
        labels: Int[Tensor, "batch words length"] | None = None,
        return_logits: bool = True,
    ) -> HatOutput:
        """Predict every word but the first.

        Args:
            words: bytes, padded with `PAD` (see `words`).
            labels: the words to count, which may be ``words`` itself; bytes of -100 or `PAD` do not count. A word's end
                counts if its last byte does, except that of [S], behind which nothing is read.
            return_logits: False saves their memory in training.

        Raises:
            InputError: if there is no second word.
        """
        if words.shape[1] < 2:
            raise InputError(f"Forward predicts the words after the first one and got {words.shape[1]}")
        predicted = self.predict(self.encode(words), word_lengths(words, PAD) > 0)[:, :-1].flatten(0, 1)
        target = words[:, 1:].flatten(0, 1)
        counted = None if labels is None else _targets(target, labels[:, 1:].flatten(0, 1))
        lengths = word_lengths(target, PAD)
        (real,) = torch.nonzero(lengths, as_tuple=True)
        shape = (words.shape[0], words.shape[1] - 1, words.shape[2] + 1, 256)
        logits = predicted.new_zeros(shape).flatten(0, 1) if return_logits else None
        total = predicted.new_zeros((), dtype=torch.float32)
        for some, width in by_length(lengths[real]):
            rows = real[some]
            part = self.decode(predicted[rows], target[rows, :width])
            if logits is not None:
                behind = torch.arange(width + 1, device=part.device) > lengths[rows, None]
                logits[rows, : width + 1] = part.masked_fill(behind[..., None], 0).to(logits.dtype)
            if counted is not None:
                wanted = counted[rows, : width + 1].flatten()
                total = total + F.cross_entropy(part.flatten(0, 1).float(), wanted, reduction="sum")
        loss = n_targets = None
        if counted is not None:
            n_targets = (counted != -100).sum()
            loss = total / n_targets.clamp(min=1)
        return HatOutput(
            loss=loss, n_targets=n_targets, logits=None if logits is None else logits.view(shape)
        )

    # ---------------------------------------------------------------------------------- what `WordWriting` asks for

    def new_cache(self) -> DynamicCache:
        """An empty cache of the backbone."""
        return DynamicCache(config=self.backbone.config)

    def read(
        self, words: Int[Tensor, "batch new length"], mask: Bool[Tensor, "batch all"], cache: DynamicCache
    ) -> Float[Tensor, "batch 1 local"]:
        """The decoder's first input for the word after these, which the cache does not have yet."""
        return self.predict(self.encode(words), mask, cache)[:, -1:]

    def embed_unit(self, units: Int[Tensor, " batch"], place: int) -> Float[Tensor, "batch 1 local"]:
        """The decoder's input for a byte, wherever in the word it is."""
        return self.decoder.embed_tokens(units)[:, None]

    @property
    def opening(self) -> list[bytes]:
        """Words before the first of a text."""
        return [bytes([STOP])] * self.config.bos_word


def _targets(target: Tensor, labels: Tensor) -> Tensor:
    """What each output of the decoder should be, ``[n, length + 1]``: bytes, the word's end, or -100."""
    lengths = word_lengths(target, PAD)
    counted = labels.masked_fill((labels == PAD) | (target == PAD), -100)
    out = F.pad(counted, (0, 1), value=-100)
    last = counted.gather(1, (lengths - 1).clamp(min=0)[:, None])[:, 0]
    ends = (lengths > 0) & (last != -100) & (target[:, 0] != STOP)
    place = F.one_hot(lengths, out.shape[1]).bool() & ends[:, None]
    return out.masked_fill(place, WORD)
