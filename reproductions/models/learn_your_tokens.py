"""Learn Your Tokens against models over bytes and over BPE tokens: guessing the next word of the Bible, whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from reproductions.models.learn_your_tokens_questions import (
    Question,
    guesses_tokens,
    guesses_words,
    questions,
)
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.language.learn_your_tokens import LearnYourTokensConfig, LearnYourTokensForCausalLM
from tokenry.models.language.word_models import WordBatches, WordLanguageModel
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.loop import LoopSettings, Objective

_INSIDE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") | set(range(128, 256))
_EOT = 256  # of the model over bytes


def token_ends(vocab: ByteVocab) -> Tensor:
    """Tokens that do not begin with a letter or digit; special ones among them."""
    return torch.tensor([not token or token[0] not in _INSIDE for token in vocab.token_bytes])


def arms(
    settings: Mapping[str, Any], documents: Sequence[str], tokenizer: PreTrainedTokenizerFast, seed: int
) -> dict[str, tuple[Objective, Any, Callable[[Sequence[Question]], list[bool]]]]:
    """The models, their batches of equally many bytes, and how each is asked."""
    torch.manual_seed(seed)
    ours = LearnYourTokensForCausalLM(
        LearnYourTokensConfig(**settings["model"], max_words=settings["words"] + 1)
    )
    split = ours.config.word_splitter().split
    words = [word for document in documents for word in split(document)]
    units = torch.tensor([unit for document in documents for unit in (_EOT, *document.encode())])
    tokens = pack(tokenizer, documents)
    rows, share = settings["batch"], settings["words"] / len(words)  # of the corpus in a stretch
    vocab = ByteVocab.from_tokenizer(tokenizer)
    byte_ends = torch.tensor([unit not in _INSIDE for unit in range(257)])
    made: dict[str, tuple[Objective, Any, Callable[[Sequence[Question]], list[bool]]]] = {
        "words": (
            WordLanguageModel(ours),
            WordBatches(words, ours.unit_ids, settings["words"], rows, seed),
            lambda asked: guesses_words(ours, asked),
        )
    }
    for name, ids, size, cut, ends in (
        ("bytes", units, 257, list, byte_ends),
        ("BPE", tokens, len(tokenizer), vocab.encode, token_ends(vocab)),
    ):
        model = small_llama(size, **settings["llama"], context=2048, seed=seed)
        made[name] = (
            CausalLanguageModel(model),
            TokenBatches(ids, round(share * len(ids)), rows, seed),
            lambda asked, model=model, cut=cut, ends=ends: guesses_tokens(model, asked, cut, ends),  # type: ignore[misc]
        )
    return made


def experiment(study: Study) -> Outcome:
    """Train the three models on the same bytes and count the words they guess right from the first byte to the last."""
    settings = study.settings
    corpus = load_corpus("bible", limit=settings["bytes"])
    train, test = corpus.split()
    tokenizer = train_bpe(train.documents, settings["vocabulary"])
    split = LearnYourTokensConfig(**settings["model"]).word_splitter().split
    common = Counter(word for document in train.documents for word in split(document))
    held_out = [word for document in test.documents for word in split(document)]
    accuracy: dict[str, list[float]] = {}
    rare: dict[str, list[float]] = {}
    sizes = {}
    for seed in study.seeds:
        asked = questions(held_out, settings["context"], settings["questions"], common, -1, seed)
        seldom = questions(held_out, settings["context"], settings["rare questions"], common, 5, seed)
        for name, (objective, batches, ask) in arms(settings, train.documents, tokenizer, seed).items():
            loop = LoopSettings(
                settings["steps"], lr=settings["lr"], warmup=settings["steps"] // 10, seed=seed
            )
            study.train(objective, batches, loop, f"{name}-{seed}")
            accuracy.setdefault(name, []).append(100 * float(np.mean(ask(asked))))
            rare.setdefault(name, []).append(100 * float(np.mean(ask(seldom))))
            sizes[name] = sum(p.numel() for p in objective.parameters())

    def over(values: Mapping[str, Sequence[float]], other: str, count: int) -> Measurement:
        one = 100 / count  # a model without a right answer counts as if it had one
        return Measurement.of([a / max(b, one) for a, b in zip(values["words"], values[other], strict=True)])

    return Outcome(
        metric="next words of held-out Bible text that are guessed right as a whole, in %",
        ours=Arm.of("words pooled from bytes", tuple(accuracy["words"])),
        baseline=Arm.of(f"Llama over {len(tokenizer)} BPE tokens", tuple(accuracy["BPE"])),
        measurements={
            "over bytes": over(accuracy, "bytes", settings["questions"]),
            "over BPE": over(accuracy, "BPE", settings["questions"]),
            "rare words over BPE": over(rare, "BPE", settings["rare questions"]),
        },
        tables={
            "next word, %": {
                name: {
                    "all words": round(float(np.mean(accuracy[name])), 2),
                    "words seen 5 times at most": round(float(np.mean(rare[name])), 2),
                    "parameters": sizes[name],
                }
                for name in accuracy
            }
        },
        data=corpus.provenance,
    )
