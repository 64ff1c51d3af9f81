"""Byte2Word against a table of WordPiece vectors: masked words of Debian's documentation, clean and misspelt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.language.byte2word import MASK, PAD, Byte2WordConfig, Byte2WordForMaskedLM, basic_words
from tokenry.models.language.word_models import MaskedWords, WordLanguageModel
from tokenry.text.noise import replace_letters
from tokenry.text.wordpiece import train_wordpiece
from tokenry.train.loop import LoopSettings
from tokenry.train.masked_lm import MaskedLanguageModelling
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
