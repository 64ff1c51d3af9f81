"""Dynamic tokenization: which language a line is in, told from a model's mean hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.data.packages import Provenance
from tokenry.data.text.corpora import load_corpus
from tokenry.text.dynamic_tokenization.model import DynamicModel
from tokenry.tokens.pooling import mean_pool

_RIDGE = 1.0


@dataclass(frozen=True)
class Readout:
    """A ridge classifier of standardised features."""

    mean: Tensor
    std: Tensor
    weight: Tensor
    prior: Tensor

    def __call__(self, x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The class of each row."""
        return (((x - self.mean) / self.std) @ self.weight + self.prior).argmax(1)


class LanguageProbe:
    """Which language a line is in, from a language model's mean hidden state.

    Args:
        settings: of the recipe.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        sizes = settings["probe"]
        corpora = [load_corpus(f"manpages/{name}", limit=sizes["limit"]) for name in sizes["languages"]]
        self.provenance: tuple[Provenance, ...] = tuple(p for corpus in corpora for p in corpus.provenance)
        self.batch = int(settings["batch"])
        rng = np.random.default_rng(0)
        train, test = [], []
        for label, corpus in enumerate(corpora):
            seen, held_out = corpus.split(held_out=0.3)
            train += [
                (line, label) for line in _lines(seen.documents, sizes["train"], sizes["characters"], rng)
            ]
            test += [
                (line, label) for line in _lines(held_out.documents, sizes["test"], sizes["characters"], rng)
            ]
        rng.shuffle(test)  # batches of mixed languages
        rng.shuffle(train)
        self._train, self._test = ([line for line, _ in side] for side in (train, test))
        self._labels, self._truth = (torch.tensor([label for _, label in side]) for side in (train, test))

    def fit(self, runs: Sequence[DynamicModel]) -> Readout:
        """Train the classifier on lines as each of these tokenizations gives them."""
        x = torch.cat([self._features(run, self._train)[0] for run in runs])
        mean, std = x.mean(0), x.std(0)
        x = (x - mean) / std
        y = F.one_hot(self._labels).float().repeat(len(runs), 1)
        gram = x.T @ x + _RIDGE * torch.eye(x.shape[1])
        return Readout(mean, std, torch.linalg.solve(gram, x.T @ (y - y.mean(0))), y.mean(0))

    def accuracy(self, readouts: Sequence[Readout], run: DynamicModel) -> tuple[list[float], float]:
        """Share of the test lines that each classifier tells right, and of their tokens that merging saved."""
        x, saved = self._features(run, self._test)
        return [float((readout(x) == self._truth).float().mean()) for readout in readouts], saved

    @torch.no_grad()
    def _features(self, run: DynamicModel, lines: list[str]) -> tuple[Float[Tensor, "n d"], float]:
        rows, before, after = [], 0, 0
        for start in range(0, len(lines), self.batch):
            batch = run(lines[start : start + self.batch])
            hidden = run.model.base_model(**batch).last_hidden_state
            rows.append(mean_pool(hidden, batch["attention_mask"]))
            before += sum(batch.original_lengths)
            after += sum(batch.lengths)
        return torch.cat(rows), 1 - after / before


def _lines(documents: Sequence[str], number: int, characters: int, rng: np.random.Generator) -> list[str]:
    """Pieces of running text of so many characters, from random places."""
    text = " ".join(" ".join(document.split()) for document in documents)
    starts = rng.integers(0, len(text) - characters, number)
    return [text[start : start + characters] for start in starts.tolist()]
