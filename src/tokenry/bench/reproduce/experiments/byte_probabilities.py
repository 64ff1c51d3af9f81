"""Byte probabilities: prompts that end inside a word, and two models with different vocabularies as one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.bench.reproduce.tiny_lm import tiny_lm, tiny_lm_texts
from tokenry.data.packages import cache_folder
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.models.load import load
from tokenry.predict.lm.byte_probabilities.base import ByteLM
from tokenry.predict.lm.byte_probabilities.byte_model import byte_model
from tokenry.predict.lm.byte_probabilities.ensemble import ensemble
from tokenry.predict.lm.byte_probabilities.healing import TokenContinuation

_WAYS = {
    "naive": "going on from the prompt's tokens",
    "healing": "token healing",
    "exact": "exact byte probabilities",
}


@dataclass(frozen=True)
class _Kind:
    """Bits per byte of one kind of text under an ensemble's members and under the ensemble."""

    name: str
    members: tuple[float, ...]
    mixed: float


def experiment(study: Study) -> Outcome:
    """Surprise at the true next bytes in the middle of a word; bits per byte of an ensemble and of its members."""
    settings = study.settings
    corpora = [load_corpus(name, limit=settings["limit"]) for name in settings["corpora"]]
    prompts = list(_cuts(corpora, settings["prompts"], settings["characters"], settings["bytes"]))
    exact = byte_model(*(load("smollm2") if settings["model"] == "SmolLM2" else _tiny(study, 0)))
    ways: dict[str, ByteLM] = {
        "naive": TokenContinuation(exact),
        "healing": TokenContinuation(exact, "healed"),
        "exact": exact,
    }
    losses = {
        name: np.array([-way.log_prob(after, before) for before, after in prompts])
        for name, way in ways.items()
    }
    mean = {name: float(values.mean()) for name, values in losses.items()}
    kinds = _ensembles(study)
    return Outcome(
        metric=f"nats for the next {settings['bytes']} bytes after prompts that end inside a word, "
        f"{settings['model']}",
        ours=Arm(_WAYS["exact"], (mean["exact"],)),
        baseline=Arm(_WAYS["naive"], (mean["naive"],)),
        figures={
            "exact over naive": Figure.of([mean["exact"] / mean["naive"]]),
            "healing over exact": Figure.of([mean["healing"] / mean["exact"]]),
            "naive over healing": Figure.of([mean["naive"] / mean["healing"]]),
            "ensemble above mean": Figure.of(
                [max(kind.mixed - float(np.mean(kind.members)) for kind in kinds)]
            ),
            "texts where the ensemble is best": Figure.of(
                [float(sum(kind.mixed < min(kind.members) for kind in kinds))]
            ),
        },
        tables={
            "nats": {
                _WAYS[name]: {
                    "mean": round(float(v.mean()), 3),
                    "median": round(float(np.median(v)), 3),
                    "worst": round(float(v.max()), 3),
                    "share beaten by exact": round(float((v > losses["exact"] + 1e-6).mean()), 3),
                }
                for name, v in losses.items()
            },
            "bits per byte": {
                kind.name: {
                    f"{vocab} tokens": round(value, 4)
                    for vocab, value in zip(settings["ensemble"]["vocabs"], kind.members, strict=True)
                }
                | {"ensemble": round(kind.mixed, 4)}
                for kind in kinds
            },
        },
        notes=(
            "Every way is scored by the bytes that it gives, summed over all the tokens that could give them.",
            "The ensemble's members were trained here on the same text and differ in their vocabularies.",
        ),
        data=tuple(
            p
            for corpus in (*corpora, *tiny_lm_texts(settings["ensemble"]["lm"]["limit"])[2])
            for p in corpus.provenance
        ),
    )


def _cuts(
    corpora: Sequence[Corpus], count: int, characters: int, following: int
) -> Iterator[tuple[str, bytes]]:
    """Prompts that end inside a word, with two letters of it or more on either side, and the bytes that follow."""
    rng = random.Random(0)
    for i in range(count):
        documents = corpora[i % len(corpora)].documents
        while True:
            text = rng.choice(documents)
            at = rng.randrange(len(text)) if text else 0
            after = text[at : at + following].encode()[:following]
            start = text.rfind("\n", 0, max(at - characters, 0)) + 1
            inside = text[at - 2 : at + 2]
            if at >= 2 and at - start <= 2 * characters and inside.isalpha() and len(after) == following:
                yield text[start:at], after
                break


def _tiny(study: Study, member: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    settings = study.settings["ensemble"]
    vocab = settings["vocabs"][member]
    return tiny_lm(cache_folder() / "models", console=study.console, vocab=vocab, **settings["lm"])


def _ensembles(study: Study) -> list[_Kind]:
    """Bits per byte of two models and of their mean, on texts of several kinds."""
    settings = study.settings["ensemble"]
    members = [byte_model(*_tiny(study, k)) for k in range(len(settings["vocabs"]))]
    both = ensemble(members)
    _, held_out, _ = tiny_lm_texts(settings["lm"]["limit"])
    kinds = {"held-out documentation": held_out} | {
        name: load_corpus(name, limit=study.settings["limit"]).documents for name in settings["corpora"]
    }
    found = []
    for name, documents in kinds.items():
        texts = [d[: settings["characters"]] for d in documents if len(d) >= settings["characters"]]
        logs = [np.stack([m.log_probs(text) for m in members]) for text in texts[: settings["documents"]]]
        each = np.concatenate(logs, axis=1)
        bits = tuple((-each.mean(axis=1) / np.log(2)).tolist())
        found.append(_Kind(name, bits, float(-both.mean(each).mean() / np.log(2))))
    return found
