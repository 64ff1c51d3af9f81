"""Models of words on the training loop: objectives, batches cut from one long row of words, and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.models.language import byte2word
from tokenry.models.language.ragged import pad_words, word_lengths
from tokenry.models.language.word_generation import UnitIds
from tokenry.tokens.errors import InputError
from tokenry.train import masking
from tokenry.train.loop import Batch, Figures, Objective


class WordLanguageModel(Objective):
    """Predict the next word unit by unit (HAT, Learn Your Tokens), or the masked words (Byte2Word).

    Batches hold ``words`` and may hold ``labels``; without, every word but the first is learnt.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The mean negative log-likelihood of a unit in nats."""
        words = batch["words"]
        if "labels" in batch:
            return self.model(words, labels=batch["labels"]).loss, {}
        return self.model(words, labels=words, return_logits=False).loss, {}


class WordRow:
    """Words one after another as one array of bytes.

    Args:
        words: of at least one byte each.

    Raises:
        InputError: if there is no word.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        if not words:
            raise InputError("There is no text to train on: no document has a word.")
        self.flat = np.frombuffer(b"".join(words), dtype=np.uint8)
        self.lengths = np.array([len(word) for word in words])
        self.starts = np.concatenate([[0], self.lengths.cumsum()[:-1]])

    def __len__(self) -> int:
        return len(self.lengths)

    def at(self, places: Int[Tensor, "batch words"], ids: UnitIds) -> Int[Tensor, "batch words length"]:
        """The words at places of the row, as models take them; with room for an end where that is padding."""
        where = places.numpy()
        lengths = self.lengths[where][..., None]
        inside = np.arange(lengths.max() + (ids.end == ids.pad))
        picked = self.flat[np.minimum(self.starts[where][..., None] + inside, len(self.flat) - 1)]
        return torch.from_numpy(np.where(inside < lengths, picked.astype(np.int64) + ids.offset, ids.pad))


class WordBatches:
    """Random stretches of a row of words: a function of the step, so that a run resumes exactly.

    Args:
        words: of all documents, with what stands between them.
        ids: with which the model spells.
        length: words in a stretch.
        batch: stretches in a batch.
        seed: which stretches.

    Raises:
        InputError: if the row is shorter than one stretch.
    """

    def __init__(self, words: Sequence[bytes], ids: UnitIds, length: int, batch: int, seed: int = 0) -> None:
        self.row, self.ids, self.length, self.batch, self.seed = WordRow(words), ids, length, batch, seed
        _check_stretch(len(words), length)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return {"words": self.row.at(_stretches(len(self.row), self.length, self.batch, generator), self.ids)}


def word_bits_per_byte(model: Any, texts: Iterable[str], *, window: int = 256, batch: int = 8) -> float:
    """Bits that a model of words needs for a byte of these texts, all of them together.

    The ends of words count as well: without them a text could not be told from its bytes cut otherwise. The first word
    is context only, unless the model has a word that starts texts. A long text is read in windows that overlap by half;
    what an earlier window has scored is context.

    Args:
        model: HAT, or another whose output has ``loss`` and ``n_targets``.
        texts: empty ones do not count.
        window: words the model sees at once.
        batch: windows at once.

    Raises:
        InputError: if there is nothing to score, or the window has no room for context.
    """
    if window < 2:
        raise InputError(f"A window shows a word and what is before it: at least 2 words, got {window}")
    split, ids = model.config.word_splitter().split, model.unit_ids
    pieces: list[tuple[list[bytes], int]] = []  # words, and from which on they are scored
    n_bytes = 0
    for text in texts:
        words = [*model.opening, *split(text)]
        n_bytes += sum(map(len, words[1:]))
        done = 1
        for begin in range(0, max(1, len(words) - 1), window // 2):
            end = min(begin + window, len(words))
            if end > done:
                pieces.append((words[begin:end], done - begin))
            done = max(done, end)
    if not n_bytes:
        raise InputError("There is no text to score: all texts are empty, or of one word.")
    nats = 0.0
    pieces.sort(key=lambda piece: len(piece[0]))
    with torch.inference_mode():
        for i in range(0, len(pieces), batch):
            some = pieces[i : i + batch]
            padded = pad_words([words for words, _ in some], ids.pad, offset=ids.offset).to(model.device)
            labels = padded.clone()
            for row, (_, first) in enumerate(some):
                labels[row, :first] = -100
            out = model(padded, labels=labels, return_logits=False)
            nats += float(out.loss) * int(out.n_targets)
    return nats / (math.log(2) * n_bytes)


class MaskedWords:
    """Random stretches of a row of words with some of them hidden, as Byte2Word reads them or as pieces of words.

    15 % of the words are chosen; 80 % of them become [MASK], 10 % another word, 10 % stay.

    Args:
        words: of all documents, from `byte2word.basic_words`.
        subwords: the pieces of each of them.
        length: words in a stretch; [CLS] and [SEP] come on top.
        batch: stretches in a batch.
        slots: most pieces of a word to predict.
        end: piece that stands behind the last.
        seed: which stretches, and which words.

    Raises:
        InputError: if the row is shorter than one stretch.
    """

    def __init__(
        self,
        words: Sequence[bytes],
        subwords: Mapping[bytes, Sequence[int]],
        length: int,
        batch: int,
        *,
        slots: int = 8,
        end: int = 0,
        seed: int = 0,
    ) -> None:
        _check_stretch(len(words), length)
        distinct = sorted(set(words))
        number = {word: i for i, word in enumerate(distinct)}
        self.row = torch.tensor([number[word] for word in words])
        self.length, self.batch, self.seed = length, batch, seed
        self.mask = len(distinct)  # the words after the distinct ones are [MASK], [CLS] and [SEP]
        special = [[byte2word.MASK], [byte2word.SPECIAL], [byte2word.SPECIAL] * 2]
        self.bytes = _rectangle([*(list(word) for word in distinct), *special], byte2word.PAD)
        pieces = [list(subwords[word]) for word in distinct]
        self.pieces = _rectangle(pieces, -1)
        self.labels = _rectangle([[*ids, end][:slots] for ids in pieces], -100, width=slots)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step, for Byte2Word: ``words`` and ``labels``."""
        ids, chosen, seen = self.draw(step)
        frame = torch.full((self.batch, 1), self.mask)
        words = self.bytes[torch.cat([frame + 1, seen, frame + 2], 1)]
        longest = int(word_lengths(words, byte2word.PAD).max())
        labels = self.labels[ids].masked_fill(~chosen[..., None], -100)
        return {
            "words": words[..., :longest],
            "labels": torch.nn.functional.pad(labels, (0, 0, 1, 1), value=-100),
        }

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Words of a step, which of them are chosen, and what is seen; all ``[batch, length]``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        ids = self.row[_stretches(len(self.row), self.length, self.batch, generator)]
        allowed = torch.ones_like(ids, dtype=torch.bool)
        chosen = masking.choose(allowed, masking.rounded_counts(allowed, 0.15), generator)
        seen = masking.corrupt(ids, chosen, self.mask, generator, replacements=torch.arange(self.mask))
        return ids, chosen, seen

    def as_pieces(self, cls: int, sep: int, mask: int, pad: int) -> Callable[[int], Batch]:
        """The same words hidden for a model with a table of pieces: all pieces of a word together.

        Args:
            cls, sep, mask, pad: ids of the special pieces.
        """

        def make(step: int) -> Batch:
            ids, chosen, seen = self.draw(step)
            target = self.pieces[ids]
            # [MASK] as often as the word has pieces, and as many pieces of another word: a row keeps its length
            shown = self.pieces[seen.clamp(max=self.mask - 1)].masked_fill(
                (seen == self.mask)[..., None], mask
            )
            shown = torch.where(shown < 0, mask, shown)
            labels = target.masked_fill(~chosen[..., None], -100)
            rows = []
            for real, *values in zip(target >= 0, shown, labels, strict=True):
                frame = ((cls, sep), (-100, -100))
                rows.append([[a, *v[real].tolist(), b] for v, (a, b) in zip(values, frame, strict=True)])
            seen_rows, label_rows = zip(*rows, strict=True)
            masked_ids = _rectangle(list(seen_rows), pad)
            return {
                "masked_ids": masked_ids,
                "labels": _rectangle(list(label_rows), -100),
                "attention_mask": (masked_ids != pad).long(),
            }

        return make


def _rectangle(rows: Sequence[Sequence[int]], pad: int, width: int | None = None) -> Int[Tensor, "n width"]:
    width = width or max(map(len, rows))
    out = np.full((len(rows), width), pad, dtype=np.int64)
    lengths = np.array([len(row) for row in rows])
    out[np.arange(width) < lengths[:, None]] = [unit for row in rows for unit in row]
    return torch.from_numpy(out)


def _stretches(n: int, length: int, batch: int, generator: torch.Generator) -> Int[Tensor, "batch length"]:
    return torch.randint(n - length + 1, (batch, 1), generator=generator) + torch.arange(length)


def _check_stretch(n: int, length: int) -> None:
    if n < length:
        raise InputError(
            f"The corpus has {n} words, fewer than one stretch of {length}: take more text or shorter stretches."
        )
