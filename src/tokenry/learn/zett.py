"""Training a hypernetwork over sampled tokenizers (ZeTT, arXiv 2405.07883), and n-shot transfer with it.

Two stages on the one loop: the hypernetwork first learns to give back the model's own rows, then to serve tokenizers
drawn at random from the text of each step. A run that was interrupted continues from its last checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.learn.loop import Batch, Figures, LoopSettings, Objective, once, train
from tokenry.learn.masking import candidates, choose, corrupt, rounded_counts
from tokenry.learn.resuming import claim, fingerprint, vocabulary_fingerprint
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett.network import HypernetConfig, HypernetOutput, Hypernetwork, source_rows
from tokenry.text.zett.sampler import (
    SampledTokenizer,
    SamplerSettings,
    count_words,
    sample_tokenizer,
    substring_scores,
)
from tokenry.text.zett.surface import Surfaces
from tokenry.text.zett.swap import run_with_rows
from tokenry.tokens.errors import InputError, UnsupportedError

_IGNORED = -100
_CHARACTERS_A_TOKEN = 8  # a window of text is cut this long, so that most fill `length` tokens
_MASKED = 0.15  # share of tokens hidden from a masked language model
_LANGUAGE_POWER = 0.1  # languages are drawn with probability ~ size ** 0.1


@dataclass(frozen=True, kw_only=True)
class ZettTraining:
    """How a hypernetwork is trained; the defaults are the paper's.

    Attributes:
        layers, hidden_size, heads: of the hypernetwork (`HypernetConfig`).
        pieces: longest surface form.
        identity_steps, identity_rows, identity_lr: the first stage, its random source tokens a step, its peak rate,
            which it reaches linearly at its end.
        steps, lr, warmup: the second stage.
        batch, length: texts a step, and tokens of each.
        queue: text batches whose substrings a sampled tokenizer is made of.
        sampler: how tokenizers are drawn.
        lexical_weight: of the lexical loss.
        precision: of the loop.
        checkpoint_every: steps.
        seed: of weights, texts and tokenizers.
    """

    layers: int = 3
    hidden_size: int | None = None
    heads: int | None = None
    pieces: int = 7
    identity_steps: int = 10_000
    identity_rows: int = 16_384
    identity_lr: float = 3e-4
    steps: int = 190_000
    lr: float = 6e-5
    warmup: int = 10_000
    batch: int = 128
    length: int = 128
    queue: int = 16
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    lexical_weight: float = 0.5
    precision: str = "bf16"
    checkpoint_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.identity_steps, self.identity_rows, self.steps, self.batch, self.queue)
        if least < 1 or self.length < 2:
            raise InputError("steps, rows, batch and queue must be at least 1, and length at least 2")

    def loop(self, stage: str) -> LoopSettings:
        """Settings of the loop for the stage "identity" or "transfer"."""
        first = stage == "identity"
        return LoopSettings(
            steps=self.identity_steps if first else self.steps,
            lr=self.identity_lr if first else self.lr,
            warmup=self.identity_steps if first else self.warmup,
            final=0.1,
            weight_decay=0.01,
            betas=(0.9, 0.95),
            clip=0.1,
            precision=self.precision,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )


def lexical_loss(
    rows: HypernetOutput, surface: Int[Tensor, "v p"], source: Float[Tensor, "s n_in"]
) -> Float[Tensor, ""]:
    """How far predicted rows of tokens that are one source token are from that token's own.

    The mean squared distance over those tokens, in units of the mean length (not squared, as in the published code) of
    the source rows that all surfaces begin with; the mean of input and output rows. 0 where there is no such token.
    """
    first = surface[:, 0]
    known = first < len(source)
    single = known & ((surface[:, 1:] < 0).all(1))
    targets = source[first.clamp(max=len(source) - 1)].float()
    predicted = [rows.input_embeddings]
    if rows.output_embeddings is not None:
        predicted.append(rows.output_embeddings)
    losses = []
    for x, target in zip(predicted, targets.chunk(len(predicted), 1), strict=True):
        distance = (x.float() - target).square().sum(1)
        length = target[known].norm(dim=1).mean() if known.any() else target.new_ones(())
        losses.append((distance * single).sum() / (single.sum() + 1e-8) / length)
    return torch.stack(losses).mean()


# -------------------------------------------------------------------------------------------------- batches


class IdentityBatches:
    """Step -> random source tokens.

    Args:
        vocab_size: rows of the source embedding.
        rows: tokens a step, drawn without repetition (all of a smaller vocabulary).
        seed: of the draws.
    """

    def __init__(self, vocab_size: int, rows: int, seed: int) -> None:
        self.vocab_size, self.rows, self.seed = vocab_size, rows, seed

    def __call__(self, step: int) -> Batch:
        """``ids``: int64 [rows]."""
        rng = np.random.default_rng((self.seed, step))
        return {"ids": torch.from_numpy(rng.permutation(self.vocab_size)[: self.rows])}


@dataclass(frozen=True)
class Frame:
    """What a model puts around a text, in ids of its own special tokens.

    Attributes:
        before, after: special tokens at both ends.
        mask: the mask token of a masked language model; None for causal models, which predict the next token.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    mask: int | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, masked: bool) -> Frame:
        """As the tokenizer does it."""
        filled = tokenizer("a", return_special_tokens_mask=True)
        ids, special = filled["input_ids"], filled["special_tokens_mask"]
        first = special.index(0)
        last = len(special) - special[::-1].index(0)
        mask = tokenizer.mask_token_id if masked else None
        return cls(tuple(ids[:first]), tuple(ids[last:]), mask)


class SampledBatches:
    """Step -> a text batch under a tokenizer of its own.

    Everything is a function of the step, so that training resumes exactly: the queue of text batches that a
    tokenizer is made of is found again from the steps before.

    Args:
        texts: documents by language.
        surfaces: of the model's vocabulary.
        special_tokens: special tokens of the model and their ids.
        settings: batch shape, sampler, seed.
        frame: special tokens around a text, and what masks.
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[str]],
        surfaces: Surfaces,
        special_tokens: Mapping[str, int],
        settings: ZettTraining,
        frame: Frame | None = None,
    ) -> None:
        if not texts or not all(
            any(document.strip() for document in documents) for documents in texts.values()
        ):
            raise InputError(
                "hypernetwork training needs text: the corpus (or one of its languages) is empty"
            )
        self.languages = tuple(texts)
        self._texts = [tuple(filter(str.strip, documents)) for documents in texts.values()]
        self._ends = [np.cumsum([len(document) for document in documents]) for documents in self._texts]
        share = np.array([ends[-1] for ends in self._ends], np.float64) ** _LANGUAGE_POWER
        self._share = share / share.sum()
        self._surfaces, self._special, self._settings = surfaces, dict(special_tokens), settings
        self._frame = frame or Frame()
        self._counts = lru_cache(maxsize=4 * settings.queue * len(texts))(self._count)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_counts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._counts = lru_cache(maxsize=4 * self._settings.queue * len(self._texts))(self._count)

    def __call__(self, step: int) -> Batch:
        """A batch.

        Returns:
            ``input_ids`` and ``labels`` int64 [batch, length]: labels are the next token, or what was masked; -100
            counts for nothing;
            ``attention_mask``; ``surface`` int64 [batch, v, p] and ``copied`` int64 [batch, v] (the source id whose
            rows a special token keeps, else -1): the same vocabulary for every row, as views without copies, so that
            several processes can share the rows; ``language``.
        """
        settings, language = self._settings, self.language(step)
        words: Counter[str] = Counter()
        for earlier in self._queue(step):
            words.update(self._counts(earlier))
        rng = np.random.default_rng((settings.seed, step, 1))
        scores = substring_scores(words, settings.sampler.stride, settings.sampler.longest)
        tokenizer = sample_tokenizer(scores, settings.sampler, rng, self._special)
        inputs = self._inputs(tokenizer, self.windows(step), step)
        copied = torch.full((len(tokenizer.token_bytes),), -1)
        for own, source in tokenizer.special.items():
            copied[own] = source
        # Special tokens have no bytes; their surface is the model's token of the same role.
        surface = self._surfaces.matrix([token or b" " for token in tokenizer.token_bytes])
        surface[copied >= 0] = -1
        surface[copied >= 0, 0] = copied[copied >= 0]
        return {
            **inputs,
            "surface": surface.expand(settings.batch, -1, -1),
            "copied": copied.expand(settings.batch, -1),
            "language": torch.tensor(language),
        }

    def language(self, step: int) -> int:
        """Index of the language of a step."""
        return int(
            np.random.default_rng((self._settings.seed, step, 2)).choice(len(self._share), p=self._share)
        )

    def windows(self, step: int) -> list[str]:
        """The texts of a step: cut from documents at random places, every character equally likely to be first."""
        settings, language = self._settings, self.language(step)
        rng = np.random.default_rng((settings.seed, step, 0))
        documents, ends = self._texts[language], self._ends[language]
        out = []
        for place in rng.integers(0, ends[-1], settings.batch).tolist():
            index = int(np.searchsorted(ends, place, side="right"))
            start = place - (int(ends[index - 1]) if index else 0)
            out.append(documents[index][start : start + _CHARACTERS_A_TOKEN * settings.length])
        return out

    def _inputs(self, tokenizer: SampledTokenizer, texts: list[str], step: int) -> Batch:
        """Ids, mask and labels of texts in a sampled tokenizer."""
        frame, masked = self._frame, self._frame.mask is not None
        own = {source: token for token, source in tokenizer.special.items()}
        before, after = [own[t] for t in frame.before], [own[t] for t in frame.after]
        length = self._settings.length + (not masked)  # the next token of the last one is a label too
        room = max(1, length - len(before) - len(after))
        rows = [[*before, *ids[:room], *after] for ids in tokenizer.encode(texts)]
        ids = torch.full((len(rows), length), _IGNORED)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        if frame.mask is None:
            inputs, labels = ids[:, :-1], ids[:, 1:].contiguous()
            return {
                "input_ids": inputs.clamp(min=0),
                "attention_mask": (inputs >= 0).long(),
                "labels": labels,
            }
        generator = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + step)
        real = ids >= 0
        allowed = candidates(ids, real, tokenizer.special)
        chosen = choose(allowed, rounded_counts(allowed, _MASKED), generator)
        ordinary = torch.tensor([i for i, data in enumerate(tokenizer.token_bytes) if data is not None])
        seen = corrupt(ids.clamp(min=0), chosen, own[frame.mask], generator, replacements=ordinary)
        labels = ids.masked_fill(~chosen, _IGNORED)
        return {"input_ids": seen, "attention_mask": real.long(), "labels": labels}

    def _queue(self, step: int) -> list[int]:
        """The last steps of this step's language, itself included."""
        language, found = self.language(step), [step]
        while len(found) < self._settings.queue and step > 0:
            step -= 1
            if self.language(step) == language:
                found.append(step)
        return found

    def _count(self, step: int) -> Counter[str]:
        return count_words(self.windows(step))


# ----------------------------------------------------------------------------------------------- objectives


class IdentityObjective(Objective):
    """The warm-up: predict the model's own rows from themselves.

    Args:
        hypernet: the network to train.
        source: the model's rows.
    """

    source: Tensor

    def __init__(self, hypernet: Hypernetwork, source: Float[Tensor, "s n_in"]) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.register_buffer("source", source, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Mean squared distance of ``batch["ids"]``'s predicted rows from their own, averaged over in and out."""
        ids = batch["ids"]
        rows = self.hypernet(ids[:, None], self.source, 0 if self.hypernet.config.languages else None)
        parts = [rows.input_embeddings]
        if rows.output_embeddings is not None:
            parts.append(rows.output_embeddings)
        targets = self.source[ids].float().chunk(len(parts), 1)
        loss = torch.stack(
            [(x - y).square().sum(1).mean() for x, y in zip(parts, targets, strict=True)]
        ).mean()
        relative = loss.detach() / self.source.float().square().sum(1).mean() * len(parts)
        return loss, {"relative": relative}


class TransferObjective(Objective):
    """The second stage: rows for a sampled tokenizer, judged by the frozen language model that has to live with them.

    The language model is neither trained nor checkpointed. Sampled vocabularies have the size they have, so unlike
    in the published code (whose shapes are fixed) no filler rows have to be masked out of the softmax.

    Args:
        hypernet: the network to train.
        model: the language model, causal or masked, which is frozen.
        lexical_weight: of the lexical loss.
    """

    source: Tensor

    def __init__(self, hypernet: Hypernetwork, model: PreTrainedModel, lexical_weight: float = 0.5) -> None:
        super().__init__()
        self.hypernet, self.lexical_weight = hypernet, lexical_weight
        self._model = (model.eval().requires_grad_(False),)  # in a tuple: not a submodule of this one
        self.register_buffer("source", source_rows(model), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the labels under the sampled tokenizer, and the weighted lexical loss."""
        model = self._model[0].to(self.source.device)
        language = int(batch["language"]) if self.hypernet.config.languages else None
        surface, copied = batch["surface"][0], batch["copied"][0]
        rows = self.hypernet(surface, self.source, language)
        lexical = lexical_loss(rows, surface, self.source)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        swapped = _keep_special(rows, self.source, copied)
        likelihood = _cross_entropy(run_with_rows(model, swapped, **inputs).logits, batch["labels"])
        return likelihood + self.lexical_weight * lexical, {
            "nats": likelihood.detach(),
            "lexical": lexical.detach(),
        }


def _keep_special(
    rows: HypernetOutput, source: Float[Tensor, "s n_in"], copied: Int[Tensor, " v"]
) -> HypernetOutput:
    """Special tokens get the model's own rows back."""
    parts = [rows.input_embeddings]
    if rows.output_embeddings is not None:
        parts.append(rows.output_embeddings)
    own = source[copied.clamp(min=0)].float().chunk(len(parts), 1)
    kept = [torch.where((copied >= 0)[:, None], y, x) for x, y in zip(parts, own, strict=True)]
    return HypernetOutput(kept[0], kept[1] if len(kept) == 2 else None, rows.bias)


def _cross_entropy(logits: Float[Tensor, "b t v"], labels: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=_IGNORED)


class NShotObjective(Objective):
    """Continued training after a transfer: the hypernetwork and the model's body together, on the new vocabulary.

    The rows stay near those that the transfer began with by a squared error on all tokens.

    Args:
        hypernet: trained; its first predictions are what the rows are held to.
        model: the language model; its body is trained in place, its own embedding is not used.
        surface: surface forms of the target vocabulary, one row a token.
        copied: source id whose rows a special token keeps, else -1.
        weight: of the squared error.
    """

    source: Tensor
    surface: Tensor
    copied: Tensor
    first_in: Tensor
    first_out: Tensor

    def __init__(
        self,
        hypernet: Hypernetwork,
        model: PreTrainedModel,
        surface: Int[Tensor, "v p"],
        copied: Int[Tensor, " v"],
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.hypernet, self.model, self.weight = hypernet, model, weight
        source = source_rows(model).clone()
        first = _keep_special(hypernet.predict(surface, source), source, copied)
        tensors = {
            "source": source,
            "surface": surface,
            "copied": copied,
            "first_in": first.input_embeddings,
            "first_out": first.output_embeddings,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def rows(self) -> HypernetOutput:
        """The rows of the target vocabulary as they now stand."""
        return _keep_special(self.hypernet(self.surface, self.source), self.source, self.copied)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of ``batch["input_ids"]`` (target ids) plus the weighted distance from the first rows."""
        rows = self.rows()
        ids = batch["input_ids"]
        logits = run_with_rows(self.model, rows, input_ids=ids).logits
        likelihood = _cross_entropy(logits[:, :-1], ids[:, 1:])
        drift = F.mse_loss(rows.input_embeddings, self.first_in)
        if rows.output_embeddings is not None:
            drift = (drift + F.mse_loss(rows.output_embeddings, self.first_out)) / 2
        return likelihood + self.weight * drift, {"nats": likelihood.detach(), "drift": drift.detach()}


# ----------------------------------------------------------------------------------------------------- runs


def train_hypernetwork(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | Mapping[str, Sequence[str]],
    folder: Path,
    settings: ZettTraining | None = None,
    *,
    console: Console | None = None,
    workers: int = 0,
) -> Hypernetwork:
    """Train a hypernetwork for a causal or masked language model, or continue an interrupted training.

    Args:
        model: the language model; it is frozen and put into evaluation mode.
        tokenizer: its tokenizer.
        texts: documents, or documents by language (each language then gets a vector of its own).
        folder: where checkpoints go, in ``identity`` and ``transfer``.
        settings: sizes, steps and rates; the paper's by default.
        console: where progress is shown.
        workers: processes that prepare batches.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        InputError: no text, a tokenizer that does not belong to the model, or checkpoints of a run that was started
            with something else.
        UnsupportedError: a model without a language-modelling head.
    """
    if settings is None:
        settings = ZettTraining()
    masked = not model.can_generate()
    if model.get_output_embeddings() is None or (masked and tokenizer.mask_token_id is None):
        raise UnsupportedError(
            f"{type(model).__name__} predicts no tokens (it has no language-modelling head, or its tokenizer no mask "
            "token); load it as a causal or masked language model"
        )
    by_language = texts if isinstance(texts, Mapping) else {"": texts}
    identity = {
        "settings": {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"},
        "text": {language: fingerprint(documents) for language, documents in by_language.items()},
        "model": type(model).__name__,
        "vocabulary": vocabulary_fingerprint(tokenizer),
    }
    vocabulary = ByteVocab.from_tokenizer(tokenizer)
    source = source_rows(model)
    special = {str(tokenizer.convert_ids_to_tokens(token)): token for token in sorted(vocabulary.special_ids)}
    surfaces = Surfaces(vocabulary, len(source), settings.pieces)
    if vocabulary.kind == "wordpiece" and (normalizer := tokenizer.backend_tokenizer.normalizer) is not None:
        # An uncased vocabulary has no pieces for capitals: the texts as the model knows them.
        by_language = {
            name: [normalizer.normalize_str(text) for text in documents]
            for name, documents in by_language.items()
        }
    batches = SampledBatches(by_language, surfaces, special, settings, Frame.of(tokenizer, masked))
    once(lambda: claim(folder / "run.json", identity), settings.precision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        config = HypernetConfig.for_model(
            model,
            layers=settings.layers,
            hidden_size=settings.hidden_size,
            heads=settings.heads,
            pieces=settings.pieces,
            languages=len(by_language) if len(by_language) > 1 else 0,
        )
        hypernet = Hypernetwork(config)
    hypernet.fit_scalers(source)

    def run(stage: str, objective: Objective, make: Callable[[int], Batch]) -> None:
        title = f"hypernetwork, {stage}"
        train(
            objective,
            make,
            settings.loop(stage),
            folder / stage,
            title=title,
            workers=workers,
            console=console,
        )

    identities = IdentityBatches(len(source), settings.identity_rows, settings.seed)
    run("identity", IdentityObjective(hypernet, source), identities)
    run("transfer", TransferObjective(hypernet, model, settings.lexical_weight), batches)
    return hypernet.eval()
