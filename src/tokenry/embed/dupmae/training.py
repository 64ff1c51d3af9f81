"""RetroMAE and DupMAE: pre-training an encoder whose [CLS], and whose other tokens, are worth searching with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from tokenry.text.wordpiece import train_wordpiece
from tokenry.tokens.errors import InputError
from tokenry.train import masking
from tokenry.train.loop import Batch, Figures, Objective
from tokenry.train.masked_lm import as_batch, hidden_states, token_loss
from tokenry.train.objectives import Ingredients, Job, Pretraining
from tokenry.train.rows import EncodedRows, SpecialIds

_PADDING = -1000.0  # logits of padding positions, before the maximum over positions
_HIDDEN = -1e4  # additive mask; finite, so that a row that sees nothing is harmless instead of NaN

Query = Literal["dupmae", "retromae"]


@dataclass(frozen=True)
class DupmaeSettings:
    """Masks and weights; the defaults are the paper's.

    Attributes:
        encoder_rate: share of tokens the encoder does not see.
        decoder_rate: share of tokens a row of the decoder does not see.
        masks: how many masks a text gets for its decoder; its rows draw one each (published code: 256).
        bow_weight: of the bag of words; 0 is RetroMAE.
        decoder_weight: of the reconstruction; 0 with ``bow_weight`` 0 is plain masked language modelling.
        query: what the decoder asks with: "dupmae", the embedding layer applied to [CLS]'s vector at every position
            (adds position and type, then LayerNorm); "retromae" (v1), the sum of vector and position.
        normalise_bow: give every distinct word 1 / (number of distinct words), so that the weights sum to 1; the
            published code divides by the number of tokens instead and counts no token twice.
    """

    encoder_rate: float = 0.3
    decoder_rate: float = 0.5
    masks: int = 256
    bow_weight: float = 0.1
    decoder_weight: float = 1.0
    query: Query = "dupmae"
    normalise_bow: bool = False

    def __post_init__(self) -> None:
        for name in ("encoder_rate", "decoder_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is a share of tokens below 1, got {getattr(self, name)}")
        if self.masks < 1:
            raise InputError(f"A text needs at least one decoder mask, got {self.masks}")


def visibility(
    rows: EncodedRows,
    allowed: Bool[Tensor, "b n"],
    words: Int[Tensor, "b n"],
    rate: float,
    masks: int,
    generator: torch.Generator,
) -> Bool[Tensor, "b n n"]:
    """Which tokens each row of the decoder sees: all but a random share of the words, itself, and padding.

    Args:
        rows: the texts.
        allowed: positions that may be hidden; [CLS] is not among them, so every row but its own sees it.
        words: the word each token belongs to.
        rate: share of tokens to hide.
        masks: masks to draw for a text; each row of its matrix uses one of them.
        generator: randomness.
    """
    batch, length = rows.ids.shape
    drawn = min(length, masks)
    count = masking.rounded_counts(allowed, rate)
    many = torch.arange(batch, device=rows.ids.device).repeat_interleave(drawn)
    hidden = masking.choose_words(allowed[many], words[many], count[many], generator)
    pick = torch.randint(drawn, (batch, length), generator=generator, device=rows.ids.device)
    own = torch.arange(batch, device=rows.ids.device)[:, None] * drawn + pick
    visible = ~hidden[own] & rows.mask.bool()[:, None, :]
    return visible & ~torch.eye(length, dtype=torch.bool, device=rows.ids.device)


@dataclass(frozen=True)
class DupmaeMasking:
    """Rows -> batch of RetroMAE and DupMAE.

    Attributes:
        ids: of the tokenizer.
        settings: rates.
    """

    ids: SpecialIds
    settings: DupmaeSettings = DupmaeSettings()

    def __call__(self, rows: EncodedRows, generator: torch.Generator) -> Batch:
        """``masked_ids`` and ``labels`` of the encoder, ``original`` (all words), ``visible`` of the decoder, rows."""
        allowed = self.ids.candidates(rows)
        words = masking.word_index(rows.ids, self.ids.continues)
        count = masking.rounded_counts(allowed, self.settings.encoder_rate)
        chosen = masking.choose_words(allowed, words, count, generator)
        seen = masking.corrupt(rows.ids, chosen, self.ids.mask, generator, replacements=self.ids.ordinary)
        batch = as_batch(rows) | {
            "masked_ids": seen,
            "labels": masking.labels(rows.ids, chosen),
            "original": masking.labels(rows.ids, allowed),
        }
        if self.settings.decoder_weight:
            rate, masks = self.settings.decoder_rate, self.settings.masks
            batch["visible"] = visibility(rows, allowed, words, rate, masks, generator)
        return batch


class CrossLayer(nn.Module):
    """One post-norm BERT layer whose queries are not its keys; the residual comes from the queries.

    Args:
        config: widths, heads and dropout.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.dropout = config.num_attention_heads, config.hidden_dropout_prob
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.final_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        query: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b n d"],
        visible: Bool[Tensor, "b n n"],
    ) -> Float[Tensor, "b n d"]:
        """Row i of the result comes from row i of the query and what it sees of the memory."""

        def split(x: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n k"]:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        q, k, v = split(self.query(query)), split(self.key(memory)), split(self.value(memory))
        hidden = torch.zeros(visible.shape, dtype=q.dtype, device=q.device).masked_fill(~visible, _HIDDEN)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden[:, None])
        attended = self._drop(self.output(found.transpose(1, 2).flatten(2)))
        between = self.norm(query + attended)
        return self.final_norm(between + self._drop(self.down(F.gelu(self.up(between)))))

    def _drop(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return F.dropout(x, self.dropout, self.training)


def max_logits(logits: Float[Tensor, "b n v"], mask: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
    """The largest logit of every vocabulary entry over the positions of a text behind [CLS]."""
    return logits[:, 1:].masked_fill(~mask[:, 1:, None].bool(), _PADDING).amax(1)


def bag_of_words_loss(
    scores: Float[Tensor, "b v"], targets: Int[Tensor, "b n"], *, normalise: bool = False
) -> Float[Tensor, ""]:
    """Cross-entropy between a text's distinct words and the softmax over its scores, the mean over texts.

    Args:
        scores: one score a vocabulary entry.
        targets: the text's ids, -100 where there is none to count.
        normalise: weigh every distinct word 1 / (distinct words); otherwise 1 / (words), as in the published code.
    """
    real = targets != masking.IGNORE
    weight = torch.zeros_like(scores)
    weight.scatter_add_(1, targets.clamp(min=0), real.to(weight.dtype))
    weight = (weight > 0).to(scores.dtype)
    total = weight.sum(1) if normalise else real.sum(1)
    weight = weight / total.clamp(min=1)[:, None]
    return -(weight * F.log_softmax(scores, -1)).sum(1).mean()


class DupmaeObjective(Pretraining):
    """RetroMAE v2 / DupMAE (arXiv 2211.08769, 2305.02564): reconstruction from [CLS] and a bag of words from the rest.

    Three losses on one masked pass of the encoder: its own masked language modelling; a one-layer decoder, thrown away
    afterwards, that rebuilds every token from [CLS]'s vector and the half of the *unmasked* text that its row sees; and
    the cross-entropy of the text's words under the largest logit each has over the tokens other than [CLS].

    Args:
        model: the encoder with its masked-language-modelling head, which all three losses share.
        settings: rates and weights; ``bow_weight=0`` is RetroMAE.
    """

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """WordPiece, uncased."""
        return train_wordpiece(texts, **options)

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Pre-training from a recipe, a text a row; `settings` are those of `DupmaeSettings`."""
        rows, ids = given.rows(texts, tokenizer, single=1.0, shorter=0.0)
        settings = DupmaeSettings(**given.settings)
        model = BertForMaskedLM(given.bert_config(tokenizer))
        return Job(cls(model, settings), given.batches(rows, DupmaeMasking(ids, settings)), model)

    def __init__(self, model: BertForMaskedLM, settings: DupmaeSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or DupmaeSettings()
        self.model = model
        self.decoder = CrossLayer(model.config) if self.settings.decoder_weight else None

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The weighted sum, and each loss."""
        hidden = hidden_states(self.model.bert, batch["masked_ids"], batch)
        loss, _ = token_loss(self.model, hidden, batch["labels"])
        figures = {"encoder": loss}
        if self.decoder is not None:
            rebuilt = self.decode(hidden[:, 0], batch)
            figures["decoder"], _ = token_loss(self.model, rebuilt, batch["original"])
            loss = loss + self.settings.decoder_weight * figures["decoder"]
        if self.settings.bow_weight:
            scores = max_logits(self.model.cls(hidden).float(), batch["attention_mask"])
            figures["bag"] = bag_of_words_loss(
                scores, batch["original"], normalise=self.settings.normalise_bow
            )
            loss = loss + self.settings.bow_weight * figures["bag"]
        return loss, figures

    def decode(self, cls: Float[Tensor, "b d"], batch: Batch) -> Float[Tensor, "b n d"]:
        """The decoder's output at every position, from [CLS]'s vector and the unmasked text."""
        assert self.decoder is not None
        embed = self.model.bert.embeddings
        clean = embed(batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
        memory = torch.cat([cls[:, None].to(clean.dtype), clean[:, 1:]], dim=1)
        asked = cls[:, None].to(clean.dtype).expand_as(clean)
        if self.settings.query == "dupmae":
            query = embed(inputs_embeds=asked, token_type_ids=batch.get("token_type_ids"))
        else:
            query = asked + embed.position_embeddings.weight[: clean.shape[1]]
        return self.decoder(query, memory, batch["visible"])


# --------------------------------------------------------------------------------------------------- retrieval


class ContrastiveRetrieval(Objective):
    """Fine-tuning for retrieval: every query is to score highest with its own document.

    The other documents of the batch are negatives, and so are hard ones if the batch has them (``negative_ids``,
    ``negative_mask``). With ``teacher`` in the batch, a cross-encoder's scores of each query's own document and its
    hard negative, the KL divergence from the teacher's distribution over the two is added, as in the paper's
    distilled setting.

    Args:
        retriever: called with ids and mask it represents texts; its ``score(queries, documents)`` compares all with all
            (`tokenry.embed.dupmae.encoder.DupmaeEncoder`, or any other).
        temperature: of the softmax over documents; 1 in the paper.
    """

    def __init__(self, retriever: Any, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(f"The temperature must be positive, got {temperature}")
        if not callable(getattr(retriever, "score", None)):
            raise InputError(
                f"{type(retriever).__name__} has no score(queries, documents): pass a DupmaeEncoder."
            )
        self.retriever = retriever
        self.temperature = temperature

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss and the share of queries whose document comes first.

        Args:
            batch: ``query_ids``, ``query_mask``, ``document_ids``, ``document_mask``, row by row belonging together.
        """
        queries = self.retriever(batch["query_ids"], batch["query_mask"])
        documents = self.retriever(batch["document_ids"], batch["document_mask"])
        scores = self.retriever.score(queries, documents)
        own = torch.arange(len(scores), device=scores.device)
        if "negative_ids" in batch:
            hard = self.retriever(batch["negative_ids"], batch["negative_mask"])
            scores = torch.cat([scores, self.retriever.score(queries, hard)], dim=1)
        scores = scores.float() / self.temperature
        loss = F.cross_entropy(scores, own)
        if "teacher" in batch:
            pair = torch.stack([scores[own, own], scores[own, len(own) + own]], dim=1)
            loss = loss + F.kl_div(
                pair.log_softmax(1),
                batch["teacher"].float().log_softmax(1),
                log_target=True,
                reduction="batchmean",
            )
        return loss, {"first": (scores.argmax(1) == own).float().mean()}
