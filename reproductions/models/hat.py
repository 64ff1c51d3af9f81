"""HAT against a Llama over BPE tokens of about equal FLOPs per byte: English, noise, then German."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.models.language.hat import STOP, HatConfig, HatForCausalLM
from tokenry.models.language.word_models import WordBatches, WordLanguageModel, word_bits_per_byte
from tokenry.text.measure import bits_per_byte
from tokenry.text.noise import swap_letters
from tokenry.text.training import train_bpe
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.loop import Batch, LoopSettings, Objective

ENGLISH, GERMAN = "English", "German"


@dataclass(frozen=True)
class Contestant:
    """A model with its way to make batches of a corpus and to be scored on texts."""

    objective: Objective
    batches: Callable[[Corpus], Callable[[int], Batch]]
    score: Callable[[Sequence[str]], float]


def contestants(
    settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, n_tokens: int, seed: int
) -> dict[str, Contestant]:
    """Fresh models; a stretch has as many English bytes in words as in ``n_tokens`` tokens."""
    n_words, rows = settings["words"], settings["batch"]
    torch.manual_seed(seed)
    hat = HatForCausalLM(HatConfig(**settings["hat"]))
    llama = small_llama(
        len(tokenizer), **settings["llama"], eos_token_id=tokenizer.eos_token_id, context=n_tokens, seed=seed
    )
    return {
        "HAT": Contestant(
            WordLanguageModel(hat),
            lambda corpus: WordBatches(
                words_of(corpus.documents, hat.config), hat.unit_ids, n_words, rows, seed
            ),
            partial(word_bits_per_byte, hat, window=n_words),
        ),
        "BPE": Contestant(
            CausalLanguageModel(llama),
            lambda corpus: TokenBatches(pack(tokenizer, corpus.documents), n_tokens, rows, seed),
            partial(bits_per_byte, llama, tokenizer, window=n_tokens),
        ),
    }


def words_of(documents: Iterable[str], config: HatConfig) -> list[bytes]:
    """All words of documents, [S] in front of each document."""
    split = config.word_splitter().split
    return [word for document in documents for word in (bytes([STOP]), *split(document))]


def some_text(corpus: Corpus, limit: int) -> list[str]:
    """The beginnings of documents, together about so many characters."""
    each = max(1, limit // len(corpus.documents))
    return [document[:each] for document in corpus.documents]


def flops_per_byte(contestant: Contestant, corpus: Corpus, n_bytes: float) -> float:
    """Of a training step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        contestant.objective(contestant.batches(corpus)(0))[0].backward()
    contestant.objective.zero_grad()
    return counter.get_total_flops() / n_bytes


def experiment(study: Study) -> Outcome:
    """Train both on English, score clean and noisy text, train on in German."""
    settings = study.settings
    corpora = {
        name: load_corpus(settings["corpora"][name], limit=settings["bytes"]) for name in (ENGLISH, GERMAN)
    }
    parts = {name: corpus.split() for name, corpus in corpora.items()}
    english, german = (some_text(parts[name][1], settings["scored"]) for name in (ENGLISH, GERMAN))
    texts = {
        "English": english,
        "ALL CAPS": [text.upper() for text in english],
        "10 % of letters swapped": [swap_letters(text, 0.1, seed) for seed, text in enumerate(english)],
        "German, unseen": german,
    }
    tokenizer = train_bpe(parts[ENGLISH][0].documents, settings["vocabulary"])
    train = parts[ENGLISH][0]
    stretch = settings["words"] / len(
        words_of(train.documents, HatConfig(**settings["hat"]))
    )  # of the corpus
    n_tokens = round(stretch * len(pack(tokenizer, train.documents)))
    scores: dict[str, list[dict[str, float]]] = {"HAT": [], "BPE": []}
    costs = {}
    for seed in study.seeds:
        for name, contestant in contestants(settings, tokenizer, n_tokens, seed).items():
            costs[name] = flops_per_byte(contestant, train, settings["batch"] * stretch * train.n_bytes)
            loop = LoopSettings(
                steps=settings["steps"], lr=settings["lr"], warmup=settings["steps"] // 10, seed=seed
            )
            study.train(contestant.objective, contestant.batches(train), loop, f"{name}-{seed}")
            found = {what: contestant.score(some) for what, some in texts.items()}
            steps = settings["german steps"]
            loop = LoopSettings(steps=steps, lr=settings["lr"], warmup=steps // 10, seed=seed)
            study.train(
                contestant.objective, contestant.batches(parts[GERMAN][0]), loop, f"{name}-{seed}-german"
            )
            scores[name].append(found | {"German": contestant.score(german)})
    ours, theirs = scores["HAT"], scores["BPE"]

    def rise(kind: str) -> Measurement:
        rises = [[run[kind] - run["English"] for run in runs] for runs in (ours, theirs)]
        return Measurement.of([a / b for a, b in zip(*rises, strict=True)])

    def ratio(kind: str) -> Measurement:
        return Measurement.of([a[kind] / b[kind] for a, b in zip(ours, theirs, strict=True)])

    return Outcome(
        metric="bits per byte of held-out English man pages",
        ours=Arm.of("HAT", tuple(run["English"] for run in ours)),
        baseline=Arm.of(f"Llama over {len(tokenizer)} BPE tokens", tuple(run["English"] for run in theirs)),
        measurements={
            "English ratio": ratio("English"),
            "rise under ALL CAPS": rise("ALL CAPS"),
            "rise under swaps": rise("10 % of letters swapped"),
            "German ratio": ratio("German"),
        },
        tables={
            "bits per byte": {
                name: {kind: round(Measurement.of([run[kind] for run in runs]).value, 3) for kind in runs[0]}
                for name, runs in scores.items()
            }
        },
        details={"MFLOPs per byte of training": {name: round(cost / 1e6, 2) for name, cost in costs.items()}},
        data=[p for corpus in corpora.values() for p in corpus.provenance],
    )
