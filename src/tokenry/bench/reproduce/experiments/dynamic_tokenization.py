"""Dynamic tokenization: what fewer tokens cost a continuation and a classifier, and finding tokens among very many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.bench.reproduce.tiny_lm import tiny_hypernet, tiny_lm_texts
from tokenry.data.packages import Provenance, cache_folder
from tokenry.data.text.corpora import load_corpus
from tokenry.text.dynamic_tokenization.large_vocabulary import LargeVocabulary
from tokenry.text.dynamic_tokenization.model import DynamicModel, dynamic
from tokenry.text.knn import KnnIndex
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett import Hypernetwork
from tokenry.tokens.pooling import mean_pool

_RIDGE = 1.0


def experiment(study: Study) -> Outcome:
    """Merge 0 .. 100 % of what can be saved, with the hypernetwork's rows and with means; then the index of step 7."""
    settings = study.settings
    lm = {name: settings[name] for name in ("vocab", "steps", "limit")}
    cache = cache_folder() / "models"
    model, tokenizer, hypernet = tiny_hypernet(cache, lm, settings["hypernet"], console=study.console)
    seen, held_out, corpora = tiny_lm_texts(settings["limit"])
    prompts, answers = _continuations(held_out, settings["continuations"])
    probe = LanguageProbe(settings)
    plain = probe.fit([dynamic(model, tokenizer, merges=0)])

    sources: dict[str, Hypernetwork | None] = {"hypernetwork": hypernet, "mean of pieces": None}
    table: dict[str, dict[str, float]] = {}
    for source, network in sources.items():
        runs = {share: dynamic(model, tokenizer, network, reduction=share) for share in settings["shares"]}
        adapted = probe.fit([runs[share] for share in settings["adapted_on"]])
        for share, run in runs.items():
            bits, saved = _continuation_bits(run, prompts, answers, settings["batch"])
            (of_plain, of_adapted), probe_saved = probe.accuracy([plain, adapted], run)
            table[f"{source}, {share:.0%} of the saving"] = {
                "prompt tokens saved": round(saved, 4),
                "bits per byte of the continuation": round(bits, 4),
                "lines' tokens saved": round(probe_saved, 4),
                "language accuracy, adapted probe": round(of_adapted, 4),
                "language accuracy, probe of whole tokens": round(of_plain, 4),
            }
    full = table["hypernetwork, 0% of the saving"]
    shorter = [
        row for name, row in table.items() if "hypernetwork" in name and row["lines' tokens saved"] >= 0.2
    ]
    at_20 = min(shorter, key=lambda row: row["lines' tokens saved"]) if shorter else None
    ours, mean = (table[f"{name}, 100% of the saving"] for name in sources)
    column = "bits per byte of the continuation"
    index = _index(settings, model, tokenizer, hypernet, seen, prompts)
    told, untouched = "language accuracy, adapted probe", "language accuracy, probe of whole tokens"
    best = max(full[told], full[untouched])
    lost = 100 * (best - at_20[told]) if at_20 else math.nan
    lost_untouched = 100 * (best - at_20[untouched]) if at_20 else math.nan
    return Outcome(
        metric="bits per byte of a continuation after a prompt merged to its pre-tokens",
        ours=Arm("hypernetwork rows", (ours[column],)),
        baseline=Arm("mean-of-pieces rows", (mean[column],)),
        figures={
            "points lost at 20 % shorter": Figure.of([lost]),
            "points lost without adaptation": Figure.of([lost_untouched]),
            "bits lost by merging the prompt": Figure.of([ours[column] - full[column]]),
            "bits won over mean of pieces": Figure.of([mean[column] - ours[column]]),
            "recall of the index": Figure.of([index["recall at 1"]]),
            "share of the dot products": Figure.of([index["share of the dot products"]]),
        },
        tables={"merging": table, "index": {"k-means cells": index}},
        details={"tokens saved at 20 % shorter": at_20["lines' tokens saved"] if at_20 else None},
        notes=(
            "A decoder is used for the probe too: mean-pooled last hidden states and a ridge classifier. It has learnt "
            "English only: words of other languages are many tokens. The adapted probe was trained on lines merged to "
            "several degrees, as the paper fine-tunes its task models; the other one only on the model's own tokens. "
            "Points are lost from what the better of the two reaches without merging.",
            f"Batches of {settings['batch']} texts; prompts are merged, continuations are in the model's own tokens.",
            "The index holds rows predicted for real tokens and rows drawn from their normal distribution; queries are "
            "hidden states of held-out text.",
        ),
        data=tuple(dict.fromkeys((*(p for corpus in corpora for p in corpus.provenance), *probe.provenance))),
    )


# ---------------------------------------------------------------------------------------------- continuations


def _continuations(texts: Sequence[str], sizes: dict[str, int]) -> tuple[list[str], list[str]]:
    """Prompts and what follows them: the beginnings of held-out documents, cut at white space."""
    prompts: list[str] = []
    answers: list[str] = []
    for text in texts:
        for start in range(0, len(text) - sizes["prompt"] - sizes["answer"], 4 * sizes["prompt"]):
            cut = text.find(" ", start + sizes["prompt"])
            if 0 <= cut < len(text) - sizes["answer"] and len(prompts) < sizes["number"]:
                prompts.append(text[start:cut])
                answers.append(text[cut : cut + sizes["answer"]])
    return prompts, answers


def _continuation_bits(
    run: DynamicModel, prompts: list[str], answers: list[str], batch: int
) -> tuple[float, float]:
    """Bits per byte of the answers, and the share of prompt tokens that merging saved."""
    nats, before, after = 0.0, 0, 0
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        nats -= float(run.score(prompts[part], answers[part]).sum())
        merged = run(prompts[part])
        before += sum(merged.original_lengths)
        after += sum(merged.lengths)
    size = sum(len(answer.encode()) for answer in answers)
    return nats / math.log(2) / size, 1 - after / before


# ------------------------------------------------------------------------------------------------ the probe


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


# ------------------------------------------------------------------------------------------------ the index


@torch.no_grad()
def _index(
    settings: Mapping[str, Any],
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    hypernet: Hypernetwork,
    texts: Sequence[str],
    prompts: list[str],
) -> dict[str, float]:
    """How often a search in a few cells finds what an exact search finds, and what it costs."""
    sizes = settings["index"]
    longer = ByteVocab.from_tokenizer(train_bpe(texts, sizes["real"]))
    large = LargeVocabulary(model, tokenizer, [t for t in longer.token_bytes if t], hypernet)
    real = large.output_rows.float()
    generator = torch.Generator().manual_seed(0)
    covariance = torch.cov(real.T) + 1e-6 * torch.eye(real.shape[1])
    noise = torch.randn(sizes["rows"] - len(real), real.shape[1], generator=generator)
    rows = torch.cat([real, real.mean(0) + noise @ torch.linalg.cholesky(covariance).T])
    queries = _hidden(model, tokenizer, prompts, sizes["queries"])
    exact = KnnIndex(rows).search(queries, 1)
    index = KnnIndex(rows, cells=sizes["cells"])
    found = index.search(queries, 20, nprobe=sizes["nprobe"])
    by_logit = _best_by_logit(rows, queries)
    return {
        "rows": len(rows),
        "predicted for real tokens": len(real),
        "cells": sizes["cells"],
        "cells looked at": sizes["nprobe"],
        "recall at 1": round(float((found.ids[:, 0] == exact.ids[:, 0]).float().mean()), 4),
        "share of the dot products": round(found.products / exact.products, 4),
        "largest logit among the 20": round(float((found.ids == by_logit[:, None]).any(1).float().mean()), 4),
    }


def _best_by_logit(rows: Float[Tensor, "n d"], queries: Float[Tensor, "q d"]) -> Int[Tensor, " q"]:
    """The token that the whole softmax finds most likely."""
    return KnnIndex(rows, metric="dot").search(queries, 1).ids[:, 0]


def _hidden(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], number: int
) -> Float[Tensor, "q d"]:
    """Hidden states, as the head sees them, at places of texts."""
    states = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        states.append(model.base_model(input_ids=ids).last_hidden_state[0, 8::16])
        if sum(map(len, states)) >= number:
            break
    return torch.cat(states)[:number].float()
