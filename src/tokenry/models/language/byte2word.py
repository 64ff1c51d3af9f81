"""Byte2Word: a BERT whose words come from their bytes instead of a table (arXiv 2211.12677).

A learned query attends over the bytes of a word and gives its vector; the encoder runs over words; a head predicts the
sub-words of a masked word. No code was published and the paper leaves the details open: the query, the widths and the
layout of the head are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel

from tokenry.hosts.upstream import BertLayer, BertPredictionHeadTransform, ModelOutput
from tokenry.models.language.ragged import RaggedWords, pad_words, word_lengths
from tokenry.text.words import WordSplitter, pieces
from tokenry.tokens.errors import InputError

PAD = 256
MASK = 257  # alone: [MASK]
SPECIAL = 258  # once: [CLS]; twice: [SEP]
ROWS = 259


class Byte2WordConfig(PretrainedConfig):
    """Sizes; by default those of BERT-base with 9 % of the parameters of its table.

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings: of the
            encoder; positions are words.
        byte_width: of a byte's vector.
        word_bytes: longest word; longer ones are cut.
        vocab_size: sub-words the head tells apart.
        max_subwords: most sub-words of a word that it predicts.
        end_id: id behind the last sub-word of a word; [PAD] of a WordPiece vocabulary serves.
        dropout: everywhere.

    Raises:
        InputError: if a size makes no sense.
    """

    model_type = "tokenry-byte2word"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        max_position_embeddings: int = 512,
        byte_width: int = 192,
        word_bytes: int = 32,
        vocab_size: int = 30522,
        max_subwords: int = 8,
        end_id: int = 0,
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if word_bytes < 2 or max_subwords < 1:
            raise InputError(
                f"word_bytes must be at least 2 and max_subwords at least 1, got {word_bytes}, {max_subwords}"
            )
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.max_position_embeddings, self.byte_width = max_position_embeddings, byte_width
        self.word_bytes, self.vocab_size, self.max_subwords = word_bytes, vocab_size, max_subwords
        self.end_id, self.dropout, self.layer_norm_eps = end_id, dropout, layer_norm_eps
        self.initializer_range = initializer_range
        super().__init__(**kwargs)

    def bert(self) -> BertConfig:
        """The encoder over words."""
        return BertConfig(
            vocab_size=1,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=self.intermediate_size,
            max_position_embeddings=self.max_position_embeddings,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout,
            layer_norm_eps=self.layer_norm_eps,
            initializer_range=self.initializer_range,
            attn_implementation="sdpa",
        )


class WordFromBytes(nn.Module):
    """The input network: one vector a word, from its bytes.

    A learned query attends over byte vectors, ``w = LN(z + MLP(LN(z)))``. With the defaults of `Byte2WordConfig` it has
    2,122,560 parameters beside the query and the two norms.
    """

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.bytes = nn.Embedding(ROWS, config.byte_width)
        self.places = nn.Embedding(config.word_bytes, config.byte_width)
        self.query = nn.Parameter(torch.empty(width).normal_(std=config.initializer_range))
        self.key = nn.Linear(config.byte_width, width, bias=False)
        self.value = nn.Linear(config.byte_width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.before = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.after = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(
        self, ids: Int[Tensor, "n length"], real: Bool[Tensor, "n length"]
    ) -> Float[Tensor, "n width"]:
        """Vectors of words.

        Args:
            ids: bytes, `MASK` or `SPECIAL`; anything where there is padding.
            real: where there is none.
        """
        vectors = self.bytes(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        key, value = (
            project(vectors).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.key, self.value)
        )
        query = self.query.to(key.dtype).view(1, self.heads, 1, -1).expand(len(ids), -1, -1, -1)
        pooled = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None])
        z = self.out(pooled.flatten(1))
        out: Tensor = self.after(z + self.mlp(self.before(z)))
        return out


class SubwordHead(nn.Module):
    """Predicts the sub-words of a word from its hidden state; needed for training only.

    Slot ``r`` starts as ``h + offset[r]``; one bidirectional layer mixes the slots of a word; then BERT's
    prediction head. With a single slot there is nothing to mix and the layer is left out: with an offset of zero it is
    an ordinary masked-language-model head.
    """

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__()
        bert = config.bert()
        self.offset = nn.Parameter(torch.zeros(config.max_subwords, config.hidden_size))
        if config.max_subwords > 1:
            self.offset.data.normal_(std=config.initializer_range)
        self.mix = BertLayer(bert) if config.max_subwords > 1 else None
        self.transform = BertPredictionHeadTransform(bert)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden: Float[Tensor, "n width"]) -> Float[Tensor, "n slots vocabulary"]:
        """Logits of every sub-word of every word."""
        slots = hidden[:, None] + self.offset.to(hidden.dtype)
        if self.mix is not None and len(slots):  # no word is masked: attention has no use for an empty batch
            everything = torch.ones(1, 1, 1, slots.shape[1], dtype=torch.bool, device=slots.device)
            slots = self.mix(slots, everything.expand(len(slots), 1, slots.shape[1], -1))
        return self.decoder(self.transform(slots))


class Byte2WordPreTrainedModel(PreTrainedModel):
    """What both models have in common."""

    config_class = Byte2WordConfig
    base_model_prefix = "byte2word"
    main_input_name = "words"
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["BertLayer", "WordFromBytes"]


@dataclass
class Byte2WordOutput(ModelOutput):
    """What the models return.

    Attributes:
        loss: mean cross-entropy in nats over the sub-words (and ends) of masked words.
        logits: ``[masked, max_subwords, vocab_size]``, masked words in the order of the batch.
        last_hidden_state: ``[batch, words, width]``; [CLS] is the first word.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None


class Byte2WordModel(Byte2WordPreTrainedModel):
    """Byte2Word without a head, arXiv 2211.12677: a vector in context for every word of a text."""

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        self.embedding = WordFromBytes(config)
        self.body = BertModel(config.bert(), add_pooling_layer=False)
        self.body.embeddings.word_embeddings = None  # `embedding` takes its place
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The byte table."""
        return self.embedding.bytes

    def words(self, texts: Sequence[str]) -> Int[Tensor, "batch words length"]:
        """Texts as the input of `forward`: [CLS], words and punctuation signs without whitespace, [SEP]."""
        inside = [basic_words(text, self.config.word_bytes) for text in texts]
        # bytes hold the places of the special words, whose ids are above 255
        out = pad_words([[b"\0", *words, b"\0\0"] for words in inside], PAD)
        rows = torch.arange(len(inside))
        ends = torch.tensor([len(words) + 1 for words in inside])
        out[:, 0, 0] = out[rows, ends, 0] = out[rows, ends, 1] = SPECIAL
        return out.to(self.device)

    def forward(self, words: Int[Tensor, "batch words length"]) -> Byte2WordOutput:
        """Run the encoder.

        Args:
            words: bytes and special ids, padded with `PAD` (see `words`).

        Raises:
            InputError: if a word or a text is too long.
        """
        lengths = word_lengths(words, PAD)
        if int(lengths.max()) > self.config.word_bytes:
            raise InputError(
                f"A word of {int(lengths.max())} bytes is longer than word_bytes={self.config.word_bytes}: cut it."
            )
        if words.shape[1] > self.config.max_position_embeddings:
            raise InputError(
                f"A text of {words.shape[1]} words is longer than the {self.config.max_position_embeddings} this model "
                "has places for."
            )
        vectors = RaggedWords.of(words, PAD).encode(self.embedding)
        hidden = self.body(inputs_embeds=vectors, attention_mask=(lengths > 0).long()).last_hidden_state
        return Byte2WordOutput(last_hidden_state=hidden)


class Byte2WordForMaskedLM(Byte2WordPreTrainedModel):
    """Byte2Word with its sub-word head, arXiv 2211.12677."""

    def __init__(self, config: Byte2WordConfig) -> None:
        super().__init__(config)
        self.byte2word = Byte2WordModel(config)
        self.head = SubwordHead(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The byte table."""
        return self.byte2word.get_input_embeddings()

    def words(self, texts: Sequence[str]) -> Int[Tensor, "batch words length"]:
        """Texts as the input of `forward`; see `Byte2WordModel.words`."""
        return self.byte2word.words(texts)

    def forward(
        self,
        words: Int[Tensor, "batch words length"],
        labels: Int[Tensor, "batch words slots"] | None = None,
    ) -> Byte2WordOutput:
        """Predict masked words.

        Args:
            words: some of them masked, that is [MASK], another word's bytes, or left as they are.
            labels: sub-words of the masked words, the end behind them, then -100; -100 throughout for the others.
                Without labels every [MASK] is predicted.
        """
        hidden = self.byte2word(words).last_hidden_state
        masked = words[..., 0] == MASK if labels is None else (labels != -100).any(-1)
        logits = self.head(hidden[masked])
        loss = None
        if labels is not None:
            wanted = labels[masked]
            total = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="sum")
            loss = total / (wanted != -100).sum().clamp(min=1)
        return Byte2WordOutput(loss=loss, logits=logits, last_hidden_state=hidden)

    def subword_labels(self, subwords: Sequence[Sequence[int]]) -> Int[Tensor, "n slots"]:
        """Labels of words: their sub-words, cut at ``max_subwords``, and the end if there is room for it.

        Args:
            subwords: of each word.
        """
        slots = self.config.max_subwords
        rows = [[*ids, self.config.end_id][:slots] for ids in subwords]
        return torch.tensor([row + [-100] * (slots - len(row)) for row in rows], dtype=torch.int64).view(
            -1, slots
        )

    def read(self, logits: Float[Tensor, "n slots vocabulary"]) -> list[list[int]]:
        """The likeliest sub-words of each masked word, up to the end."""
        found = logits.argmax(-1).tolist()
        end = self.config.end_id
        return [row[: row.index(end)] if end in row else row for row in found]


def basic_words(text: str, word_bytes: int) -> list[bytes]:
    """Words and punctuation signs as BERT's basic tokenizer finds them, long ones in pieces.

    Args:
        text: any.
        word_bytes: longest piece.
    """
    words = (word.decode().strip() for word in WordSplitter("punctuation").split(text))
    return [piece for word in words if word for piece in pieces(word.encode(), word_bytes)]
