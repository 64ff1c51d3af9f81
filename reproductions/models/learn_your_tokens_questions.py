"""Learn Your Tokens: next words to be told, and how each model tells them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from tokenry.models.language.learn_your_tokens import PAD, LearnYourTokensForCausalLM
from tokenry.models.language.ragged import pad_words

_WORD = re.compile(rb" [A-Za-z]+")


Cut = Callable[[bytes], list[int]]


@dataclass(frozen=True)
class Question:
    """A word to guess, and the words before it."""

    before: tuple[bytes, ...]
    word: bytes


def questions(
    words: Sequence[bytes], length: int, count: int, common: Counter[bytes], rare: int, seed: int
) -> list[Question]:
    """Words of letters behind a space, which end at the same place for every model.

    Args:
        words: of held-out text.
        length: words of context.
        count: how many questions.
        common: how often training text has each word.
        rare: only words that training text has so often at most; -1 for any word.
        seed: which words.
    """
    able = [
        i
        for i in range(length, len(words))
        if _WORD.fullmatch(words[i]) and (rare < 0 or common[words[i]] <= rare)
    ]
    chosen = np.random.default_rng(seed).permutation(able)[:count]
    return [Question(tuple(words[i - length : i]), words[i]) for i in chosen]


@torch.inference_mode()
def guesses_words(
    model: LearnYourTokensForCausalLM, asked: Sequence[Question], batch: int = 50
) -> list[bool]:
    """Whether the likeliest units are those of the word, and then its end."""
    right: list[bool] = []
    for start in range(0, len(asked), batch):
        some = asked[start : start + batch]
        words = torch.nn.functional.pad(pad_words([[*q.before, q.word] for q in some], PAD, offset=1), (0, 1))
        found = model(words).logits[:, -1].argmax(-1)
        counts = torch.arange(words.shape[2]) <= (words[:, -1] != PAD).sum(-1, keepdim=True)
        right += ((found == words[:, -1]) | ~counts).all(-1).tolist()
    return right


@torch.inference_mode()
def guesses_tokens(
    model: LlamaForCausalLM, asked: Sequence[Question], cut: Cut, ends: Tensor, batch: int = 25
) -> list[bool]:
    """Whether the likeliest tokens are those of the word, and then one that cannot go on with it.

    Args:
        model: over tokens.
        asked: the questions.
        cut: bytes to tokens.
        ends: which tokens end a word of letters.
        batch: questions at once.
    """
    right: list[bool] = []
    for start in range(0, len(asked), batch):
        pairs = [(cut(b"".join(q.before)), cut(q.word)) for q in asked[start : start + batch]]
        longest = max(len(before) + len(word) for before, word in pairs)
        ids = torch.tensor(
            [[*before, *word] + [0] * (longest - len(before) - len(word)) for before, word in pairs]
        )
        found = model(ids, use_cache=False).logits.argmax(-1)
        for row, (before, word) in enumerate(pairs):
            first, last = len(before), len(before) + len(word) - 1
            spelt = found[row, first - 1 : last].tolist() == word
            right.append(spelt and bool(ends[found[row, last]]))
    return right
