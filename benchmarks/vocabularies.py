"""Bytes per token across languages: what pretrained models' vocabularies and every trained kind make of man pages."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from benchmarks.common import write
from tokenry.bench.vocabularies.compare import compare_vocabularies, read_vocabulary
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.models.pretrained import minilm_folder
from tokenry.text.kinds import TRAINERS, train

LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "pt", "ru", "ja", "zh")
SIZE = 16_384
TRAIN, TEST = 400_000, 60_000  # bytes of each language


def run(console: Console, rounds: int) -> None:
    """Train every kind on eleven languages alike, measure all on held-out pages; `rounds` does not matter here."""
    parts = {name: load_corpus(f"manpages/{name}").split(seed=0) for name in LANGUAGES}
    texts = [train.text(TRAIN) for train, _ in parts.values()]
    held_out = [_shortened(test) for _, test in parts.values()]
    vocabularies: dict[str, PreTrainedTokenizerBase] = {
        "SmolLM2": read_vocabulary(smollm2_folder()),
        "MiniLM (WordPiece)": read_vocabulary(minilm_folder()),
    }
    for kind in TRAINERS.names():
        size = 4096 if kind == "kl3m-char" else SIZE
        vocabularies[f"{kind} {size:,}"] = train(kind, texts, size)
    comparison = compare_vocabularies(vocabularies, held_out)
    rows = [
        {"vocabulary": row.name, "entries": row.size, "all": row.total.bytes_per_token}
        | {language: count.bytes_per_token for language, count in row.by_language.items()}
        | {"tokens per word": row.total.fertility, "no token for": row.total.lost_share}
        for row in comparison.rows
    ]
    write("vocabularies", rows, {}, console)


def _shortened(corpus: Corpus) -> Corpus:
    """A corpus of which only so much is measured."""
    return replace(corpus, documents=(corpus.text(TEST),))
