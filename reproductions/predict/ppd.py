"""Parallel Prompt Decoding: how many tokens a pass of SmolLM2 writes with two trained prompt tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reproductions.predict.ppd_decoding import continued, decode_with_all, differing
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.load import load
from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.training import (
    PromptTokenDistillation,
    TruncatedTexts,
    acceptance_table,
    prompt_settings,
)
from tokenry.train.language import TokenBatches, pack


def experiment(study: Study) -> Outcome:
    """Train on documents, measure the table on what the model writes after some others, decode after yet others."""
    s = study.settings
    corpus = load_corpus(s["corpus"], limit=s["bytes"])
    train_on, held_out = corpus.split(s["held_out"])
    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None  # every text gets the same length
    ids = pack(tokenizer, train_on.documents)
    beginnings = [
        tokens[: s["context"]]
        for text in held_out.documents
        if len(tokens := tokenizer(text[: 8 * s["context"]])["input_ids"]) >= s["context"]
    ]
    calibration = continued(model, beginnings[: s["calibrated"]], s["new_tokens"])
    asked = beginnings[s["calibrated"] : s["calibrated"] + s["measured"]]
    large, small = str(max(s["limits"])), str(min(s["limits"]))

    found: list[dict[str, float]] = []
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for seed in study.seeds:
        words = PromptTokens.from_words(model, tokenizer, s["prompts"])
        first = PromptTokens(words.embeddings)
        objective = PromptTokenDistillation(model, words)
        batches = TruncatedTexts(TokenBatches(ids, s["length"], s["batch"], seed), s["points"], seed=seed)
        study.train(objective, batches, prompt_settings(s["steps"], seed=seed), f"prompts-{seed}")
        sets = {"trained": words, "the words they began as": first, "random": _random(model, words, seed)}
        for prompts in sets.values():
            prompts.acceptance = acceptance_table(
                model, prompts, calibration, first=s["context"], teacher="text"
            )
        words.about = {"model": "SmolLM2-135M-Instruct", "corpus": corpus.name, "settings": dict(s)}
        words.save(study.folder / f"prompt-tokens-{seed}")
        tables = decode_with_all(model, asked, sets, s)
        arms = tables["tokens per pass"]
        found.append(
            {name: float(row["tokens per pass"]) for name, row in arms.items()}
            | {f"predicted, {name}": float(row.get("predicted", np.nan)) for name, row in arms.items()}
            | {"differing": differing(asked[: s["exact"]], words, s)}
        )

    def each(name: str) -> tuple[float, ...]:
        return tuple(values[name] for values in found)

    def gap(a: str, b: str) -> Measurement:
        return Measurement.of([x - y for x, y in zip(each(a), each(b), strict=True)])

    best, static = f"trained, {large} rows", f"trained, one tree, {large} rows"
    recycled = f"token recycling, {large} rows"
    off = [
        max(
            abs(values[f"predicted, trained, {n} rows"] / values[f"trained, {n} rows"] - 1)
            for n in s["limits"]
        )
        for values in found
    ]
    return Outcome(
        metric=f"tokens per pass of SmolLM2-135M continuing documents ({corpus.name}), {large} rows beside the root",
        ours=Arm.of("trained prompt tokens, dynamic tree", each(best)),
        baseline=Arm.of("random prompt tokens, a tree of their own", each(f"random, {large} rows")),
        measurements={
            "texts that differ from greedy": Measurement.of(each("differing")),
            "tokens per pass": Measurement.of(each(best)),
            "over random prompts": gap(best, f"random, {large} rows"),
            "over a static tree": gap(best, static),
            "prediction off by": Measurement.of(off),
            "over token recycling": gap(best, recycled),
            "over token recycling, small limit": gap(
                f"trained, {small} rows", f"token recycling, {small} rows"
            ),
        },
        tables=tables,
        details={"training rows": s["steps"] * s["batch"] * s["points"] * s["prompts"]},
        data=corpus.provenance,
    )


def _random(model: Any, like: PromptTokens, seed: int) -> PromptTokens:
    spread = float(model.get_input_embeddings().weight.float().std())
    generator = torch.Generator().manual_seed(seed)
    return PromptTokens(spread * torch.randn(like.embeddings.shape, generator=generator))
