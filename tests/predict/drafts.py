"""Proposers for tests: guesses that mean nothing, and guesses that are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenry.predict.lm.proposer import Verified
from tokenry.predict.lm.tree import Draft, DraftTree


class Noise:
    """Guesses that mean nothing, in trees of any shape."""

    hidden = False

    def __init__(self, seed: int, vocabulary: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.vocabulary = vocabulary

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Any) -> None:
        pass

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        n = int(self.generator.integers(0, limit + 1))
        parent = np.array([-1, *(int(self.generator.integers(0, i)) for i in range(1, n + 1))])
        tokens = self.generator.integers(0, self.vocabulary, n + 1)
        tokens[0] = text[-1]
        return Draft(DraftTree(parent, np.zeros(n + 1, np.int64)), tokens)

    def learn(self, row: int, verified: Verified) -> None:
        assert verified.logits.shape == (verified.draft.tree.n, self.vocabulary)


class Oracle:
    """Guesses that are right, up to `ahead` tokens of them, behind wrong ones; rows get on at different speeds."""

    hidden = False

    def __init__(self, texts: list[list[int]], ahead: Sequence[int] = (2,)) -> None:
        self.texts, self.ahead = texts, ahead
        self.asked = 0

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Any) -> None:
        pass

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        ahead = self.ahead[self.asked % len(self.ahead)]
        self.asked += 1
        after = self.texts[row][len(text) : len(text) + ahead]
        wrong = [[t ^ 1] for t in after[:1]]
        return Draft.of(text[-1], [*wrong, after], limit)

    def learn(self, row: int, verified: Verified) -> None:
        pass


def texts_of(sequences: Tensor, attention_mask: Tensor) -> list[list[int]]:
    """The rows of what `generate` gave, without the padding of the prompts."""
    more = sequences.shape[1] - attention_mask.shape[1]
    real = torch.nn.functional.pad(attention_mask, (0, more), value=1).bool()
    return [row[keep].tolist() for row, keep in zip(sequences, real, strict=True)]
