"""Byte2Word against a table of WordPiece vectors: masked words of Debian's documentation, clean and misspelt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from reproductions.models.byte2word_questions import Pieces, always, ask_pieces, ask_words, questions
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.language.byte2word import Byte2WordConfig, Byte2WordForMaskedLM, basic_words
from tokenry.models.language.word_models import MaskedWords, WordLanguageModel
from tokenry.text.wordpiece import train_wordpiece
from tokenry.train.loop import LoopSettings
from tokenry.train.masked_lm import MaskedLanguageModelling
from tokenry.train.rows import SpecialIds


def experiment(study: Study) -> Outcome:
    """Train both on the same words, hidden alike, and ask for the words of clean and of misspelt text."""
    settings = study.settings
    corpus = load_corpus("debian-docs", limit=settings["bytes"])
    train, test = corpus.split()
    longest, slots = settings["model"]["word_bytes"], settings["model"]["max_subwords"]
    row, held_out = (
        [word for document in part.documents for word in basic_words(document.lower(), longest)]
        for part in (train, test)
    )
    tokenizer = train_wordpiece([document.lower() for document in train.documents], settings["vocabulary"])
    ids, pieces = SpecialIds.of(tokenizer), Pieces(tokenizer)
    subwords = {word: pieces(word.decode("utf-8", "replace")) for word in set(row)}
    accuracy: dict[str, dict[str, list[float]]] = {"Byte2Word": {}, "table": {}}
    embedding: dict[str, int] = {}
    commonest: list[float] = []
    for seed in study.seeds:
        masked = MaskedWords(
            row, subwords, settings["length"], settings["batch"], slots=slots, end=ids.pad, seed=seed
        )
        loop = LoopSettings(settings["steps"], lr=settings["lr"], warmup=settings["steps"] // 10, seed=seed)
        ours = byte2word(settings, len(tokenizer), ids.pad, seed)
        study.train(WordLanguageModel(ours), masked, loop, f"byte2word-{seed}")
        table = bert(settings, len(tokenizer), seed)
        batches = masked.as_pieces(ids.cls, ids.sep, ids.mask, ids.pad)
        study.train(MaskedLanguageModelling(table), batches, loop, f"table-{seed}")
        clean = questions(held_out, settings["length"], settings["questions"], seed)
        noisy = [question.noisy(settings["noise"], i) for i, question in enumerate(clean)]
        for kind, asked in (("clean", clean), ("misspelt", noisy)):
            accuracy["Byte2Word"].setdefault(kind, []).append(ask_words(ours, pieces, asked, clean))
            accuracy["table"].setdefault(kind, []).append(ask_pieces(table, ids, pieces, asked, clean))
        embedding = {
            "Byte2Word": sum(p.numel() for p in ours.byte2word.embedding.parameters()),
            "table": table.get_input_embeddings().weight.numel(),
        }
        commonest.append(always(row, clean))
    ours_clean, table_clean = (accuracy[name]["clean"] for name in accuracy)
    drops = {
        name: [1 - m / c if c else 0.0 for c, m in zip(found["clean"], found["misspelt"], strict=True)]
        for name, found in accuracy.items()
    }
    return Outcome(
        metric="masked words of held-out documentation of which all sub-words are right, in %",
        ours=Arm.of("Byte2Word", tuple(ours_clean)),
        baseline=Arm.of(f"table of {len(tokenizer)} WordPiece vectors", tuple(table_clean)),
        measurements={
            "accuracy ratio": Measurement.of(
                [a / b if b else 0.0 for a, b in zip(ours_clean, table_clean, strict=True)]
            ),
            "points over the commonest word": Measurement.of(
                [min(a, b) - c for a, b, c in zip(ours_clean, table_clean, commonest, strict=True)]
            ),
            "embedding parameters": Measurement(embedding["Byte2Word"] / embedding["table"]),
            "difference of drops": Measurement.of(
                [a - b for a, b in zip(drops["Byte2Word"], drops["table"], strict=True)]
            ),
        },
        tables={
            "right, %": {
                name: {kind: round(float(np.mean(values)), 2) for kind, values in found.items()}
                | {
                    "lost to noise, share": round(float(np.mean(drops[name])), 3),
                    "embedding": embedding[name],
                }
                for name, found in accuracy.items()
            }
        },
        data=corpus.provenance,
    )


def byte2word(settings: Mapping[str, Any], vocabulary: int, end: int, seed: int) -> Byte2WordForMaskedLM:
    """An untrained model."""
    torch.manual_seed(seed)
    sizes = {**settings["body"], **settings["model"]}
    positions = settings["length"] + 2
    return Byte2WordForMaskedLM(
        Byte2WordConfig(
            **sizes, vocab_size=vocabulary, end_id=end, max_position_embeddings=positions, dropout=0.0
        )
    )


def bert(settings: Mapping[str, Any], vocabulary: int, seed: int) -> BertForMaskedLM:
    """An untrained BERT with the same body."""
    torch.manual_seed(seed)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            **settings["body"],
            max_position_embeddings=1024,  # a word may have many pieces
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
