"""Learn Your Tokens: a language model over words that are pooled from their bytes (arXiv 2310.11628).

A word encoder pools the units of each word into a few learned slots, a causal language model runs over the slots, and a
decoder spells the next word from the slots that the language model gives out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, GPT2Config, GPT2Model, PretrainedConfig, PreTrainedModel

from tokenry.hosts.upstream import BertEncoder, DynamicCache, ModelOutput, with_cache
from tokenry.models.language.ragged import RaggedWords, pad_words, word_lengths
from tokenry.models.language.word_generation import UnitIds, WordWriting
from tokenry.text.words import WordSplitter
from tokenry.tokens.errors import InputError

PAD = 0  # also the class that ends a word; byte b has id b + 1
UNITS = 257


class LearnYourTokensConfig(PretrainedConfig):
    """Sizes; the defaults are those of the published code.

    Attributes:
        hidden_size, num_attention_heads: of all three networks.
        num_hidden_layers: of the language model over slots.
        encoder_layers, decoder_layers: of the networks inside words.
        encoder_intermediate_size: of the word encoder; the others have 4 times their width, as GPT-2.
        slots: vectors per word.
        max_words: longest text, in words.
        max_word_bytes: longest word; longer ones are cut.
        splitter: kind of `WordSplitter`; must be prefix stable.
        dropout: everywhere.
        legacy_mask: the published code hides padding from padding only, so that the units of a word see its padding;
            True does the same.
        count_padding: count every padding position of a word in the loss, as the published code does; False counts the
            first one, which ends the word.

    Raises:
        InputError: if the splitter is not prefix stable.
    """

    model_type = "tokenry-learn-your-tokens"

    def __init__(
        self,
        hidden_size: int = 512,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 8,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        encoder_intermediate_size: int = 2048,
        slots: int = 4,
        max_words: int = 192,
        max_word_bytes: int = 32,
        splitter: str = "punctuation",
        dropout: float = 0.1,
        legacy_mask: bool = False,
        count_padding: bool = True,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.encoder_layers, self.decoder_layers = encoder_layers, decoder_layers
        self.encoder_intermediate_size = encoder_intermediate_size
        self.slots, self.max_words, self.max_word_bytes = slots, max_words, max_word_bytes
        self.splitter, self.dropout, self.initializer_range = splitter, dropout, initializer_range
        self.legacy_mask, self.count_padding = legacy_mask, count_padding
        if slots < 1:
            raise InputError(f"A word needs at least one slot, got slots={slots}")
        if not self.word_splitter().prefix_stable:
            raise InputError(
                f'Writing word by word needs a splitter whose cut is not changed by more text, unlike "{splitter}": '
                'take "punctuation", "unicode" or "whitespace".'
            )
        super().__init__(**kwargs)

    def word_splitter(self) -> WordSplitter:
        """How texts become words."""
        return WordSplitter(self.splitter, self.max_word_bytes)

    def word_encoder(self) -> BertConfig:
        """The bidirectional post-norm network that pools words."""
        return BertConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.encoder_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.encoder_intermediate_size,
            hidden_act="relu",
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            layer_norm_eps=1e-5,
            attn_implementation="sdpa",
        )

    def gpt2(self, layers: int, positions: int) -> GPT2Config:
        """A causal pre-norm network, over slots or inside words."""
        return GPT2Config(
            vocab_size=1,
            n_positions=positions,
            n_embd=self.hidden_size,
            n_layer=layers,
            n_head=self.num_attention_heads,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            resid_pdrop=self.dropout,
            initializer_range=self.initializer_range,
            bos_token_id=None,
            eos_token_id=None,
        )


@dataclass
class LearnYourTokensOutput(ModelOutput):
    """What `LearnYourTokensForCausalLM` returns.

    Attributes:
        loss: mean cross-entropy in nats.
        n_targets: units and ends that count in it.
        logits: ``[batch, words - 1, length, 257]``: ``[b, i, j]`` predicts unit ``j`` of word ``i + 1``, or its end.
    """

    loss: Tensor | None = None
    n_targets: Tensor | None = None
    logits: Tensor | None = None


class LearnYourTokensForCausalLM(WordWriting, PreTrainedModel):
    """Word-pooled language model, arXiv 2310.11628.

    `words` makes tensors of texts; `generate` takes and gives text. As in the published code the slots of a word are
    places of their own for the language model, causal among themselves, and units that the decoder reads have their
    position added twice (the decoder adds it again), slots once. Unlike it, padding is hidden from the units of a word
    (``legacy_mask``), and the words keep their whitespace, so that a text can be put together again.
    """

    config_class = LearnYourTokensConfig
    base_model_prefix = "learn_your_tokens"
    main_input_name = "words"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["GPT2Block", "BertLayer"]
    unit_ids = UnitIds(pad=PAD, end=PAD, offset=1)

    def __init__(self, config: LearnYourTokensConfig) -> None:
        super().__init__(config)
        self.units = nn.Embedding(UNITS + config.slots, config.hidden_size)  # the slots come last
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = BertEncoder(config.word_encoder())
        self.backbone = GPT2Model(config.gpt2(config.num_hidden_layers, config.max_words * config.slots))
        # one place more than the longest word has bytes: behind it the decoder is to say that it ends
        self.decoder = GPT2Model(config.gpt2(config.decoder_layers, config.slots + config.max_word_bytes + 1))
        self.backbone.wte = self.decoder.wte = None  # their inputs are vectors
        self.head = nn.Linear(config.hidden_size, UNITS, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of units and slots."""
        return self.units

    def words(self, texts: Sequence[str]) -> Int[Tensor, "batch words length"]:
        """Texts as the input of `forward`, with room for the end of the longest word."""
        split = self.config.word_splitter().split
        padded = pad_words([split(text) for text in texts], PAD, offset=1)
        return F.pad(padded, (0, 1), value=PAD).to(self.device)

    # --------------------------------------------------------------------------------------------------- network

    def _embed(self, units: Tensor, start: int) -> Tensor:
        """Units with their places in the canvas of a word, ``[n, length, width]``."""
        # the table of places is the decoder's, which adds it once more
        places = torch.arange(start, start + units.shape[1], device=units.device)
        vectors: Tensor = self.dropout(self.units(units) + self.decoder.wpe(places))
        return vectors

    def encode(self, words: Int[Tensor, "batch words length"]) -> Float[Tensor, "batch words slots width"]:
        """The slots of each word, pooled from its units alone; zeros for padding."""
        slots, full = self.config.slots, words.shape[2]

        def run(ids: Tensor, real: Tensor) -> Tensor:
            if self.config.legacy_mask:  # what a word sees then depends on the longest one
                ids, real = (F.pad(t, (0, full - t.shape[1])) for t in (ids, real))
            learned = torch.arange(UNITS, UNITS + slots, device=ids.device).expand(len(ids), -1)
            vectors = self._embed(torch.cat([learned, ids], 1), 0)
            real = F.pad(real, (slots, 0), value=True)
            mask = real[:, None, None].expand(-1, 1, real.shape[1], -1)
            if self.config.legacy_mask:
                mask = mask | real[:, None, :, None]
            out: Tensor = self.encoder(vectors, attention_mask=mask).last_hidden_state[:, :slots]
            return out

        return RaggedWords.of(words, PAD).encode(run)

    def predict(
        self,
        slots: Float[Tensor, "batch new slots width"],
        mask: Bool[Tensor, "batch all"],
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "batch new slots width"]:
        """The decoder's first inputs for the word after each word.

        Args:
            slots: of the words that the cache does not have.
            mask: which words are no padding, those in the cache first.
            cache: of the language model; grows by the slots.
        """
        mask = mask.repeat_interleave(self.config.slots, dim=1)
        flat = slots.flatten(1, 2)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -flat.shape[1] :]
        if mask.shape[1] > self.config.max_words * self.config.slots:
            raise InputError(
                f"This model has places for {self.config.max_words} words and got "
                f"{mask.shape[1] // self.config.slots}: hand in less text, or build it with a larger max_words."
            )
        out = self.backbone(
            inputs_embeds=flat,
            attention_mask=mask.long(),
            position_ids=positions,
            **with_cache(self.backbone, cache),
            use_cache=cache is not None,
        )
        return out.last_hidden_state.view(slots.shape)

    def decode(
        self, start: Float[Tensor, "n slots width"], units: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n length units"]:
        """Logits of every unit of a word, each given the units before it."""
        canvas = torch.cat([start, self._embed(units[:, :-1], self.config.slots).to(start.dtype)], dim=1)
        states = self.decoder(inputs_embeds=canvas, use_cache=False).last_hidden_state
        return self.head(states[:, self.config.slots - 1 :])

    def forward(
        self,
        words: Int[Tensor, "batch words length"],
        labels: Int[Tensor, "batch words length"] | None = None,
        return_logits: bool = True,
    ) -> LearnYourTokensOutput:
        """Predict every word but the first.

        Args:
            words: bytes + 1, padded with 0 (see `words`).
            labels: the words to count, which may be ``words`` itself; units of -100 do not count, nor do words of
                padding.
            return_logits: False saves their memory in training.

        Raises:
            InputError: if there is no second word, or a word or the text is too long.
        """
        if words.shape[1] < 2:
            raise InputError(f"Forward predicts the words after the first one and got {words.shape[1]}")
        if words.shape[2] > self.config.max_word_bytes + 1:
            raise InputError(
                f"Words of {words.shape[2]} units do not fit max_word_bytes={self.config.max_word_bytes} and an end."
            )
        mask = word_lengths(words, PAD) > 0
        starts = self.predict(self.encode(words), mask)[:, :-1].flatten(0, 1)
        target = words[:, 1:].flatten(0, 1)
        (real,) = torch.nonzero(mask[:, 1:].flatten(), as_tuple=True)
        part = self.decode(starts[real], target[real])
        loss = n_targets = logits = None
        if labels is not None:
            wanted = labels[:, 1:].flatten(0, 1)[real]
            if not self.config.count_padding:
                behind = (
                    torch.arange(target.shape[1], device=target.device)
                    > word_lengths(target[real], PAD)[:, None]
                )
                wanted = wanted.masked_fill(behind, -100)
            n_targets = (wanted != -100).sum()
            total = F.cross_entropy(part.flatten(0, 1).float(), wanted.flatten(), reduction="sum")
            loss = total / n_targets.clamp(min=1)
        if return_logits:
            logits = part.new_zeros(len(target), *part.shape[1:])
            logits[real] = part
            logits = logits.view(words.shape[0], -1, *part.shape[1:])
        return LearnYourTokensOutput(loss=loss, n_targets=n_targets, logits=logits)

    # ---------------------------------------------------------------------------------- what `WordWriting` asks for

    def new_cache(self) -> DynamicCache:
        """An empty cache of the language model."""
        return DynamicCache(config=self.backbone.config)

    def read(
        self, words: Int[Tensor, "batch new length"], mask: Bool[Tensor, "batch all"], cache: DynamicCache
    ) -> Float[Tensor, "batch slots width"]:
        """The decoder's first inputs for the word after these, which the cache does not have yet."""
        return self.predict(self.encode(words), mask, cache)[:, -1]

    @property
    def opening(self) -> list[bytes]:
        """Words before the first of a text: there are none."""
        return []

    def embed_unit(self, units: Int[Tensor, " batch"], place: int) -> Float[Tensor, "batch 1 width"]:
        """The decoder's input for a unit at a place of its word."""
        return self._embed(units[:, None], self.config.slots + place)
