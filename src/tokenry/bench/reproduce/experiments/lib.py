"""LiB: does a lexicon learned by memorising and forgetting cut text into fewer tokens than BPE?"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerFast

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.text.lib.learning import Lexicon, Lib, fit
from tokenry.text.training import train_bpe

Cut = Callable[[str], Sequence[str | int]]


def experiment(study: Study) -> Outcome:
    """Bytes per token and unigram bits per character of LiB and of BPE, trained on the same text to the same size."""
    settings = study.settings
    corpus = load_corpus(settings["corpus"], limit=settings["bytes"])
    runs = [_run(settings, corpus.split(settings["held_out"], seed), seed) for seed in study.seeds]
    mean = {
        arm: {name: Figure.of([run[arm][name] for run in runs]).value for name in runs[0][arm]}
        for arm in runs[0]
    }
    ours, bpe = ([run[arm] for run in runs] for arm in ("LiB", "BPE, words bounded by spaces"))
    return Outcome(
        metric="bytes per token of held-out text",
        ours=Arm("LiB, the paper's rule of segmentation", tuple(run["bytes per token"] for run in ours)),
        baseline=Arm("BPE of the same size", tuple(run["bytes per token"] for run in bpe)),
        figures={
            "compression over BPE": Figure.of(
                [a["bytes per token"] / b["bytes per token"] for a, b in zip(ours, bpe, strict=True)]
            ),
            "share of phrases": Figure.of([run["share of phrases"] for run in ours]),
            "bits per character over BPE": Figure.of(
                [a["bits per character"] / b["bits per character"] for a, b in zip(ours, bpe, strict=True)]
            ),
        },
        tables={"vocabularies": mean},
        notes=(
            "The lexicon is learned without a limit and its best-ranked part of the size is kept.",
            "Bits per character are those of a unigram model with counts from the training text, one added to each.",
        ),
        data=corpus.provenance,
    )


def _run(settings: Any, parts: Any, seed: int) -> dict[str, dict[str, float]]:
    """One split and one seed: every arm's figures."""
    train, test = (part.documents for part in parts)
    size = settings["size"]
    started = time.process_time()
    learned = Lib(**{"seed": seed, **settings["lib"]}).learn(train)
    seconds = time.process_time() - started
    lexicon = fit(learned, size - 257)
    phrases = sum(" " in chunk.strip() for chunk in lexicon.chunks) / len(lexicon.chunks)
    exported = lexicon.tokenizer()
    arms: dict[str, Cut] = {
        "LiB": _by_rule(lexicon),
        "LiB, fewest chunks (the tokenizer)": _by(exported),
        "LiB, longest match": _by(lexicon.tokenizer(rule="longest")),
        "BPE, words bounded by spaces": _by(train_bpe(train, size, pre_tokenizer="words")),
        "BPE, GPT-2's bounds": _by(train_bpe(train, size)),
    }
    found = {name: _measure(cut, train, test, size) for name, cut in arms.items()}
    found["LiB"] |= {
        "share of phrases": phrases,
        "chunks learned": float(len(learned.chunks)),
        "seconds to learn": seconds,
        "characters per chunk over bits": lexicon.efficiency(test),
    }
    found["LiB, fewest chunks (the tokenizer)"]["boundaries of one rule only"] = _differing(
        lexicon, exported, test
    )
    return found


def _by(tokenizer: PreTrainedTokenizerFast) -> Cut:
    return tokenizer.encode


def _by_rule(lexicon: Lexicon) -> Cut:
    """Tokens by the paper's rule: a character outside the lexicon is as many tokens as it has bytes."""
    known = frozenset(lexicon.chunks)

    def cut(text: str) -> list[str | int]:
        found: list[str | int] = []
        for chunk in lexicon.segment(text):
            found += [chunk] if chunk in known else list(chunk.encode())
        return found

    return cut


def _measure(cut: Cut, train: Sequence[str], test: Sequence[str], size: int) -> dict[str, float]:
    """Bytes per token on held-out text, and bits per character of it under a unigram model of the training text."""
    counts = Counter(token for text in train for token in cut(text))
    total = sum(counts.values()) + size
    tokens = [token for text in test for token in cut(text)]
    bits = -sum(math.log2((counts[token] + 1) / total) for token in tokens)
    return {
        "bytes per token": sum(len(text.encode()) for text in test) / len(tokens),
        "bits per character": bits / sum(map(len, test)),
    }


def _differing(lexicon: Lexicon, exported: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Share of all boundaries that only one of the paper's rule and the tokenizer has."""
    shared = total = 0
    for text in texts:
        rule = set(accumulate(map(len, lexicon.segment(text))))
        ours = {end for _, end in exported(text, return_offsets_mapping=True)["offset_mapping"]}
        shared += len(rule & ours)
        total += len(rule | ours)
    return 1 - shared / total
