"""What a hypernetwork is trained on (ZeTT, arXiv 2405.07883): settings, and text under tokenizers sampled from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tokenry.text.zett.sampler import (
    SampledTokenizer,
    SamplerSettings,
    count_words,
    sample_tokenizer,
    substring_scores,
)
from tokenry.text.zett.surface import Surfaces
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings
from tokenry.train.masking import IGNORE, candidates, choose, corrupt, rounded_counts

_CHARACTERS_A_TOKEN: Final = 8  # a window of text is cut this long, so that most fill `length` tokens
_MASKED: Final = 0.15  # share of tokens hidden from a masked language model
_LANGUAGE_POWER: Final = 0.1  # languages are drawn with probability ~ size ** 0.1


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
            raise InputError("Steps, rows, batch and queue must be at least 1, and length at least 2.")

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
                "Hypernetwork training needs text: the corpus (or one of its languages) is empty."
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
        ids = torch.full((len(rows), length), IGNORE)
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
        labels = ids.masked_fill(~chosen, IGNORE)
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
