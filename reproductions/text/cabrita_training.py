"""Cabrita: texts, batches, and training that is measured on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenry.bench.reproduce import Study
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.text.measure import bits_per_byte
from tokenry.tokens.files import whole_file
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.loop import LoopSettings, train


def train_on(
    study: Study,
    name: str,
    model: Any,
    tokenizer: Any,
    learnt: Sequence[str],
    texts: dict[str, Sequence[str]],
    steps: tuple[int, int],
    seed: int,
) -> dict[str, float]:
    """Train until the second of `steps` under a schedule for the first, and measure; a repeated call reads the result.

    The result of a step is kept beside the checkpoints, because a run that is taken up later may be past that step.
    """
    total, stop = steps
    kept = study.folder / name / f"bits-{stop}.json"
    if not kept.is_file():
        objective = CausalLanguageModel(model)
        train(
            objective,
            token_batches(study, tokenizer, learnt, seed),
            loop_settings(study, total),
            kept.parent,
            title=name,
            workers=0,
            stop_after=stop,
            console=study.console,
        )
        bits = measure_bits(objective.model.cpu().eval(), tokenizer, texts)
        with whole_file(kept) as scratch:
            scratch.write_text(json.dumps(bits), encoding="utf-8")
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def measure_bits(model: Any, tokenizer: Any, texts: dict[str, Sequence[str]]) -> dict[str, float]:
    """Bits per byte of each text."""
    return {what: bits_per_byte(model.eval(), tokenizer, some) for what, some in texts.items()}


def token_batches(study: Study, tokenizer: Any, texts: Sequence[str], seed: int) -> TokenBatches:
    """Texts as batches of the design's sizes."""
    return TokenBatches(pack(tokenizer, texts), study.settings["length"], study.settings["batch"], seed)


def loop_settings(study: Study, steps: int) -> LoopSettings:
    """Schedule and optimiser, the same for all trainings."""
    return LoopSettings(
        steps=steps, lr=study.settings["lr"], warmup=max(1, steps // 10), checkpoint_every=steps
    )


def load_corpora(study: Study, which: str) -> list[Corpus]:
    """The corpora of a language, as much of them as the design takes."""
    return [load_corpus(name, limit=study.settings.get("limit")) for name in study.settings[which]]


def split_corpora(corpora: Sequence[Corpus], seed: int, measured: int) -> tuple[Sequence[str], Sequence[str]]:
    """What is learnt of each corpus, and equal parts of what is held out of each."""
    pairs = [corpus.split(seed=seed) for corpus in corpora]
    learnt = [text for train_part, _ in pairs for text in train_part.documents]
    return learnt, [held.text(measured // len(pairs)) for _, held in pairs]
