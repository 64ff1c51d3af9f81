"""Byte2Word: words hidden in text, and how models that read bytes or word pieces are asked for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from tokenry.models.language.byte2word import MASK, PAD, Byte2WordForMaskedLM
from tokenry.text.noise import replace_letters
from tokenry.train.rows import SpecialIds


@dataclass(frozen=True)
class Question:
    """Words in a row, some of which are hidden."""

    words: tuple[str, ...]
    hidden: tuple[int, ...]

    def noisy(self, share: float, seed: int) -> Question:
        """The same with letters replaced; what is hidden is not seen anyway."""
        text = replace_letters(" ".join(self.words), share, seed)
        return Question(tuple(text.split(" ")), self.hidden)


def questions(words: Sequence[bytes], length: int, count: int, seed: int) -> list[Question]:
    """Stretches of text in each of which 15 % of the words are hidden at random, as many as BERT hides."""
    random = np.random.default_rng(seed)
    starts = random.integers(0, len(words) - length, count)
    hidden = [
        tuple(sorted(random.permutation(length)[: max(1, round(0.15 * length))].tolist())) for _ in starts
    ]
    return [
        Question(tuple(word.decode("utf-8", "replace") for word in words[start : start + length]), places)
        for start, places in zip(starts, hidden, strict=True)
    ]


class Pieces:
    """The sub-words of words, found once for each."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, word: str) -> list[int]:
        """The ids of a word, at least one."""
        if word not in self._known:
            ids = self._tokenizer(word, add_special_tokens=False)["input_ids"]
            self._known[word] = ids or [self._tokenizer.unk_token_id]
        return self._known[word]


@torch.inference_mode()
def ask_words(
    model: Byte2WordForMaskedLM, pieces: Pieces, asked: Sequence[Question], wanted: Sequence[Question]
) -> float:
    """Share of hidden words of which all sub-words are right.

    Args:
        model: with the sub-word head.
        pieces: of a word.
        asked: what is seen.
        wanted: what was written.
    """
    right: list[bool] = []
    for start in range(0, len(asked), 64):
        some, true = asked[start : start + 64], wanted[start : start + 64]
        words = model.words([" ".join(q.words) for q in some])
        for row, question in enumerate(some):
            places = torch.tensor(question.hidden) + 1  # behind [CLS]
            words[row, places] = PAD
            words[row, places, 0] = MASK
        found = model.read(model(words).logits)
        targets = [pieces(q.words[place]) for q in true for place in q.hidden]
        slots = model.config.max_subwords
        right += [a == b[:slots] for a, b in zip(found, targets, strict=True)]
    return 100 * float(np.mean(right))


@torch.inference_mode()
def ask_pieces(
    model: BertForMaskedLM,
    ids: SpecialIds,
    pieces: Pieces,
    asked: Sequence[Question],
    wanted: Sequence[Question],
) -> float:
    """The same of a model with a table, which is told how many pieces each hidden word has."""
    right: list[bool] = []
    for question, true in zip(asked, wanted, strict=True):
        row, spans = [ids.cls], []
        for place, word in enumerate(question.words):
            if place in question.hidden:
                target = pieces(true.words[place])
                spans.append((len(row), target))
                row += [ids.mask] * len(target)
            else:
                row += pieces(word)
        found = model(torch.tensor([[*row, ids.sep]])).logits[0].argmax(-1).tolist()
        right += [found[start : start + len(target)] == target for start, target in spans]
    return 100 * float(np.mean(right))


def always(train: Sequence[bytes], asked: Sequence[Question]) -> float:
    """Share of hidden words that are the commonest word of the training text: right without having learned a thing."""
    word = Counter(train).most_common(1)[0][0].decode("utf-8", "replace")
    return 100 * float(np.mean([q.words[place] == word for q in asked for place in q.hidden]))
