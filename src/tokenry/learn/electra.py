"""ELECTRA: a small network replaces tokens, the encoder learns to say at every position which are replaced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, PreTrainedTokenizerBase

from tokenry.text.wordpiece import train_wordpiece
from tokenry.tokens.errors import InputError
from tokenry.train import masking
from tokenry.train.loop import Batch, Figures
from tokenry.train.masked_lm import as_batch, hidden_states, vocabulary_logits
from tokenry.train.objectives import Ingredients, Job, Pretraining
from tokenry.train.rows import EncodedRows, SpecialIds

Generator = Literal["network", "tied", "uniform", "unigram"]
Task = Literal["electra", "electra-15", "replace-mlm", "all-tokens-mlm"]


def masked_count(lengths: Int[Tensor, " b"], rate: float, longest: int) -> Int[Tensor, " b"]:
    """How many tokens ELECTRA masks: ``max(1, min(N, round(rate * length)))``, ``N = int((rate + 0.005) * longest)``.

    Args:
        lengths: real tokens of each row, special ones included.
        rate: share, 0.15 in the paper for small and base models.
        longest: length to which rows are padded.
    """
    masking.check_rate(rate)
    most = int((rate + 0.005) * longest)
    return (lengths * rate).round().long().clamp(max=most).clamp(min=1)


@dataclass(frozen=True)
class ElectraMasking:
    """Rows -> batch of ELECTRA: 85 % of the chosen tokens become [MASK], the others stay.

    Attributes:
        ids: of the tokenizer.
        longest: length to which rows are padded: what the largest count is computed from.
        rate: share of tokens to choose; 0.15 for small and base models, 0.25 for large ones.
        replacement: draw positions with replacement, as the published code does, so that doubles collapse.
    """

    ids: SpecialIds
    longest: int
    rate: float = 0.15
    replacement: bool = False

    def __call__(self, rows: EncodedRows, generator: torch.Generator) -> Batch:
        """``masked_ids``, ``chosen``, and the rows themselves."""
        allowed = self.ids.candidates(rows)
        count = masked_count(rows.mask.sum(1), self.rate, self.longest)
        count = torch.minimum(count, allowed.sum(1))
        chosen = masking.choose(allowed, count, generator, replacement=self.replacement)
        seen = masking.corrupt(rows.ids, chosen, self.ids.mask, generator, kept=0.15, random=0.0)
        return as_batch(rows) | {"masked_ids": seen, "chosen": chosen}


@dataclass(frozen=True)
class ElectraSettings:
    """What is trained, beside the encoder.

    Attributes:
        generator: "network", the paper's; "tied", all weights shared with the encoder but for the heads; "uniform" and
            "unigram", no network at all.
        share: width of the generator over that of the encoder; the paper's best are 1/4 to 1/2.
        task: what the encoder learns: "electra"; or the paper's ablations "electra-15" (loss at chosen positions only),
            "replace-mlm" (name the token at chosen positions, which show a replacement instead of [MASK]) and
            "all-tokens-mlm" (name the token everywhere, with a gate that copies the input).
        weight: of the loss of "electra" and "electra-15" over that of the generator.
        temperature: of sampling.
    """

    generator: Generator = "network"
    share: float = 1 / 4
    task: Task = "electra"
    weight: float = 50.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"The generator's share of the width lies in (0, 1], got {self.share}")
        if self.temperature <= 0:
            raise InputError(f"The temperature of sampling must be positive, got {self.temperature}")


def electra_config(
    vocab_size: int,
    *,
    width: int = 256,
    layers: int = 12,
    heads: int = 4,
    embedding: int = 128,
    positions: int = 512,
    dropout: float = 0.1,
    init: float = 0.02,
    pad_id: int = 0,
) -> ElectraConfig:
    """The configuration of an encoder; the defaults are ELECTRA-Small's.

    Args:
        vocab_size: entries of the vocabulary.
        width, layers, heads: of the encoder; its feed-forward layers have four times the width.
        embedding: width of the embeddings that encoder and generator share.
        positions: longest text.
        dropout: on hidden states and attention.
        init: standard deviation of fresh weights; much narrower encoders learn faster from wider ones (0.05 at 128).
        pad_id: of [PAD].
    """
    return ElectraConfig(
        vocab_size=vocab_size,
        embedding_size=embedding,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=init,
        pad_token_id=pad_id,
    )


def generator_config(encoder: ElectraConfig, share: float) -> ElectraConfig:
    """The generator of an encoder: narrower by ``share``, equally deep, with the same embeddings.

    Raises:
        InputError: if that width cannot be divided among its heads.
    """
    config = copy.deepcopy(encoder)
    config.hidden_size = round(encoder.hidden_size * share)
    config.num_attention_heads = max(1, round(encoder.num_attention_heads * share))
    config.intermediate_size = round(encoder.intermediate_size * share)
    if config.hidden_size % config.num_attention_heads:
        raise InputError(
            f"A generator of width {config.hidden_size} cannot have {config.num_attention_heads} heads: "
            f"choose another share of {encoder.hidden_size} than {share:.3f}"
        )
    return config


def replace(
    ids: Int[Tensor, "b n"], chosen: Bool[Tensor, "b n"], samples: Int[Tensor, "c"]
) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """The corrupted text, and which tokens are not the original ones.

    A sample that happens to be the original token counts as original.

    Args:
        ids: the original text.
        chosen: positions to replace.
        samples: what stands there, in row-major order.
    """
    corrupted = ids.masked_scatter(chosen, samples)
    return corrupted, corrupted != ids


class ElectraObjective(Pretraining):
    """ELECTRA (arXiv 2003.10555): replaced-token detection, and the paper's variants of it.

    Sampling has no gradient: the generator is trained by its own masked language modelling only, and the encoder's loss
    reaches of it no more than the token, position and type embeddings, which both share.

    Args:
        discriminator: the encoder, all that is kept in the end; an ordinary transformers model.
        settings: generator, task, weights.
        unigram: counts or probabilities of the tokens, for the unigram generator.
        forbidden: ids that are never a sample (the special tokens); the published code samples from all.
    """

    prior: Tensor

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """WordPiece, uncased."""
        return train_wordpiece(texts, **options)

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Pre-training from a recipe; `settings` are those of `ElectraSettings`, and `rate` and `replacement`."""
        rows, ids = given.rows(texts, tokenizer)
        options = dict(given.settings)
        masking = ElectraMasking(
            ids,
            given.length,
            **{name: options.pop(name) for name in ("rate", "replacement") if name in options},
        )
        settings = ElectraSettings(**options)
        unigram = None
        if settings.generator == "unigram":
            unigram = torch.bincount(rows.ids[rows.mask.bool()], minlength=len(tokenizer)).float()
        config = electra_config(
            len(tokenizer), pad_id=tokenizer.pad_token_id, **{"positions": given.length} | dict(given.model)
        )
        model = ElectraForPreTraining(config)
        objective = cls(model, settings, unigram=unigram, forbidden=ids.special)
        return Job(objective, given.batches(rows, masking), model)

    def __init__(
        self,
        discriminator: ElectraForPreTraining,
        settings: ElectraSettings | None = None,
        *,
        unigram: Float[Tensor, "v"] | None = None,
        forbidden: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__()
        self.settings = settings = settings or ElectraSettings()
        self.discriminator = discriminator
        config = discriminator.config
        self.generator: ElectraForMaskedLM | None = None
        if settings.generator in ("network", "tied"):
            tied = settings.generator == "tied"
            self.generator = _with_shared_embeddings(
                discriminator, generator_config(config, 1.0 if tied else settings.share)
            )
            if tied:
                self.generator.electra = discriminator.electra
        # The ablations that name tokens need a head over the vocabulary on the encoder itself.
        self.namer: ElectraForMaskedLM | None = None
        if settings.task in ("replace-mlm", "all-tokens-mlm"):
            self.namer = _with_shared_embeddings(discriminator, config)
            self.namer.electra = discriminator.electra
        if (settings.generator == "unigram") != (unigram is not None):
            raise InputError(
                "unigram= holds the counts of the tokens for the unigram generator, and for that only."
            )
        counts = torch.ones(config.vocab_size) if unigram is None else unigram.float().clone()
        if len(counts) != config.vocab_size:
            raise InputError(f"{len(counts)} counts for a vocabulary of {config.vocab_size}")
        counts[sorted(forbidden)] = 0
        self.register_buffer("prior", counts.log(), persistent=False)

    def generate(self, batch: Batch) -> tuple[Float[Tensor, "c v"], Float[Tensor, ""]]:
        """Logits of the generator at the chosen positions, in row-major order, and its loss (0 without a network)."""
        chosen = batch["chosen"]
        originals = batch["input_ids"][chosen]
        if self.generator is None:
            return self.prior.expand(len(originals), -1), self.prior.new_zeros(())
        hidden = hidden_states(self.generator.electra, batch["masked_ids"], batch)
        logits = vocabulary_logits(self.generator, hidden[chosen]).float()
        loss = F.cross_entropy(logits, originals, reduction="sum") / max(1, len(originals))
        return logits, loss

    @torch.no_grad()
    def sample(
        self, logits: Float[Tensor, "c v"], generator: torch.Generator | None = None
    ) -> Int[Tensor, "c"]:
        """Draw a token a row by the Gumbel-max trick.

        Args:
            logits: of the generator; what was forbidden is never drawn.
            generator: randomness; None is torch's own, which the training loop seeds from the step.
        """
        allowed = logits.masked_fill(self.prior.isneginf(), -torch.inf) / self.settings.temperature
        # argmax(logits + Gumbel) = argmin(exponential / softmax): the logarithm keeps small probabilities apart.
        noise = torch.empty_like(allowed).exponential_(generator=generator)
        return (allowed - noise.log()).argmax(-1)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The sum of both losses; figures: each loss, the share of replaced tokens, the encoder's accuracy on them.

        Args:
            batch: ``input_ids``, ``masked_ids``, ``attention_mask``, ``chosen`` (and ``token_type_ids``), all [b, n].
        """
        logits, generator_loss = self.generate(batch)
        corrupted, replaced = replace(batch["input_ids"], batch["chosen"], self.sample(logits.detach()))
        hidden = hidden_states(self.discriminator.electra, corrupted, batch)
        real = batch["attention_mask"].bool()
        if self.namer is None:
            loss, recall = self._detect(hidden, replaced, real, batch["chosen"])
            loss = self.settings.weight * loss
        elif self.settings.task == "replace-mlm":
            loss, recall = self._name(hidden, batch["input_ids"], batch["chosen"])
        else:
            loss, recall = self._name_all(hidden, batch["input_ids"], corrupted, real, replaced)
        share = replaced.sum() / real.sum().clamp(min=1)
        figures = {"generator": generator_loss, "encoder": loss, "replaced": share, "found": recall}
        return generator_loss + loss, figures

    def _detect(
        self,
        hidden: Float[Tensor, "b n d"],
        replaced: Bool[Tensor, "b n"],
        real: Bool[Tensor, "b n"],
        chosen: Bool[Tensor, "b n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Binary cross-entropy, the mean over real (or chosen) tokens, and the share of replaced tokens found."""
        logits = self.discriminator.discriminator_predictions(hidden).float()
        where = chosen if self.settings.task == "electra-15" else real
        entropy = F.binary_cross_entropy_with_logits(logits, replaced.float(), reduction="none")
        loss = (entropy * where).sum() / where.sum().clamp(min=1)
        found = ((logits > 0) & replaced).sum() / replaced.sum().clamp(min=1)
        return loss, found

    def _name(
        self, hidden: Float[Tensor, "b n d"], ids: Int[Tensor, "b n"], where: Bool[Tensor, "b n"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy of the original tokens at some positions."""
        assert self.namer is not None
        target = ids[where]
        logits = vocabulary_logits(self.namer, hidden[where]).float()
        loss = F.cross_entropy(logits, target, reduction="sum") / max(1, len(target))
        return loss, (logits.argmax(-1) == target).float().mean()

    def _name_all(
        self,
        hidden: Float[Tensor, "b n d"],
        ids: Int[Tensor, "b n"],
        corrupted: Int[Tensor, "b n"],
        real: Bool[Tensor, "b n"],
        replaced: Bool[Tensor, "b n"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Cross-entropy of the original tokens everywhere, under ``D [input] + (1 - D) softmax``.

        The copy probability D comes from the head that otherwise detects replacements.
        """
        assert self.namer is not None
        target, given = ids[real], corrupted[real]
        replacement = self.discriminator.discriminator_predictions(hidden[real]).float()
        named = F.log_softmax(vocabulary_logits(self.namer, hidden[real]).float(), -1)
        picked = named.gather(1, target[:, None])[:, 0] + F.logsigmoid(replacement)
        copied = torch.where(target == given, F.logsigmoid(-replacement), -torch.inf)
        loss = -torch.logaddexp(picked, copied).mean()
        found = ((replacement > 0) & replaced[real]).sum() / replaced.sum().clamp(min=1)
        return loss, found


def _with_shared_embeddings(
    discriminator: ElectraForPreTraining, config: ElectraConfig
) -> ElectraForMaskedLM:
    """A masked language model of its own that has the encoder's embeddings, also in its head."""
    model = ElectraForMaskedLM(config)
    model.electra.embeddings = discriminator.electra.embeddings
    model.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    return model
