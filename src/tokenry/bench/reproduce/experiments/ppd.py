"""Parallel Prompt Decoding: how many tokens a pass of SmolLM2 writes with two trained prompt tokens."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.load import load
from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding
from tokenry.predict.lm.ppd.training import (
    PromptTokenDistillation,
    TruncatedTexts,
    acceptance_table,
    prompt_settings,
)
from tokenry.predict.lm.ppd.tree import best_trees, static_trees
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.train.language import TokenBatches, pack

_TABLE: Final = "share of tokens that are the first guess, the second, ..."


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
    calibration = _continued(model, beginnings[: s["calibrated"]], s["new_tokens"])
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
        tables = _decode(model, asked, sets, s)
        arms = tables["tokens per pass"]
        found.append(
            {name: float(row["tokens per pass"]) for name, row in arms.items()}
            | {f"predicted, {name}": float(row.get("predicted", np.nan)) for name, row in arms.items()}
            | {"differing": _differing(asked[: s["exact"]], words, s)}
        )

    def each(name: str) -> tuple[float, ...]:
        return tuple(values[name] for values in found)

    def gap(a: str, b: str) -> Figure:
        return Figure.of([x - y for x, y in zip(each(a), each(b), strict=True)])

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
        ours=Arm("trained prompt tokens, dynamic tree", each(best)),
        baseline=Arm("random prompt tokens, a tree of their own", each(f"random, {large} rows")),
        figures={
            "texts that differ from greedy": Figure.of(each("differing")),
            "tokens per pass": Figure.of(each(best)),
            "over random prompts": gap(best, f"random, {large} rows"),
            "over a static tree": gap(best, static),
            "prediction off by": Figure.of(off),
            "over token recycling": gap(best, recycled),
            "over token recycling, small limit": gap(
                f"trained, {small} rows", f"token recycling, {small} rows"
            ),
        },
        tables=tables,
        details={"training rows": s["steps"] * s["batch"] * s["points"] * s["prompts"]},
        notes=_notes(s),
        data=corpus.provenance,
    )


def _notes(s: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        "Contexts and continuations are plain documents; the model's end-of-text token is ignored, so that every "
        f"text has {s['new_tokens']} new tokens. Tokens per pass are measured in bfloat16, one text at a time; "
        "that the text is greedy decoding's is checked in float32, where near-ties do not flip.",
        "The table of acceptance that trees are chosen by is measured on texts which the model wrote after other "
        "held-out documents; random prompt tokens get a table of their own.",
        "The specification's batch of 4 stretches of 128 tokens is one of "
        f"{s['batch']} with {s['points']} points of truncation each.",
        "Token recycling copies what the text or an earlier one had: a 135M model that decodes greedily repeats "
        "itself (share of written tokens that end a stretch of four which the text had before: by text), and there "
        f"it accepts up to six guesses where {s['prompts']} prompt tokens give {s['prompts']}.",
        "Token recycling begins with an empty matrix and keeps it from text to text. Times are of this machine "
        "and this run, in units of plain greedy decoding by transformers.",
    )


def _continued(model: Any, contexts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """What the model writes after contexts of equal length."""
    ids = torch.tensor([list(context) for context in contexts])
    mask = torch.ones_like(ids)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
    ).tolist()


def _random(model: Any, like: PromptTokens, seed: int) -> PromptTokens:
    spread = float(model.get_input_embeddings().weight.float().std())
    generator = torch.Generator().manual_seed(seed)
    return PromptTokens(spread * torch.randn(like.embeddings.shape, generator=generator))


def _decode(
    model: Any, asked: Sequence[Sequence[int]], sets: Mapping[str, PromptTokens], s: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Every arm on the same contexts: tokens per pass, predicted and measured, and time."""
    large = max(s["limits"])
    _write(model, asked[:1], s["new_tokens"])  # the first call of a process is slow
    greedy = _write(model, asked, s["new_tokens"])
    arms: dict[str, dict[str, Any]] = {}
    by_text = {
        f"text {i}": {"share repeated": round(_repeated(text, s["context"]), 3)}
        for i, text in enumerate(greedy.texts, 1)
    }

    def arm(name: str, proposer: Proposer, limit: int, predicted: float | None) -> None:
        found = _write(model, asked, s["new_tokens"], Speculation(proposer, Fixed(limit)))
        arms[f"{name}, {limit} rows"] = {
            "tokens per pass": round(found.per_pass, 4),
            **({} if predicted is None else {"predicted": round(predicted, 4)}),
            "time over greedy": round(found.seconds / greedy.seconds, 3),
            "texts as greedy's in bfloat16": f"{found.alike(greedy)} of {len(asked)}",
        }
        if limit == large:
            for row, passes in zip(by_text.values(), found.passes, strict=True):
                row[name] = round((s["new_tokens"] - 1) / passes, 3)

    for name, limits in (("trained", s["limits"]), ("random", [large])):
        proposer = ParallelPromptDecoding(sets[name])
        for limit in limits:
            arm(name, proposer, limit, best_trees(proposer.acceptance, limit).tau())
    for limit in s["limits"]:
        one_tree = ParallelPromptDecoding(sets["trained"], search=static_trees)
        arm("trained, one tree", one_tree, limit, static_trees(one_tree.acceptance, limit).tau())
    for limit in s["limits"]:
        arm("token recycling", TokenRecycling(model.config.vocab_size), limit, None)
    rows = {
        f"{name}, {i + 2} ahead": {
            f"guess {rank}": round(float(share), 4) for rank, share in enumerate(shares, 1)
        }
        for name, prompts in sets.items()
        if prompts.acceptance is not None
        for i, shares in enumerate(prompts.acceptance)
    }
    return {"tokens per pass": arms, "tokens per pass, by text": by_text, _TABLE: rows}


@dataclass(frozen=True)
class _Written:
    """Some contexts continued, one after the other.

    Attributes:
        texts: contexts and what came of them.
        passes: over each text, after the one over its context.
        new_tokens: of each text.
        seconds: for all.
    """

    texts: list[torch.Tensor]
    passes: list[int]
    new_tokens: int
    seconds: float

    @property
    def per_pass(self) -> float:
        """Tokens per pass; the first token of a text comes from the pass over its context."""
        return len(self.texts) * (self.new_tokens - 1) / sum(self.passes)

    def alike(self, other: _Written) -> int:
        """How many texts are the same."""
        return sum(map(torch.equal, self.texts, other.texts))


def _write(
    model: Any, asked: Sequence[Sequence[int]], tokens: int, how: Speculation | None = None
) -> _Written:
    """Continue contexts greedily."""
    settings: dict[str, Any] = {} if how is None else {"custom_generate": how}
    texts, passes = [], []
    started = time.perf_counter()
    for context in asked:
        ids = torch.tensor([list(context)])
        mask = torch.ones_like(ids)
        texts.append(
            model.generate(
                ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0, **settings
            )
        )
        if how is not None:
            how.stats.raise_if_interrupted()
        passes.append(tokens - 1 if how is None else how.stats.forwards)
    return _Written(texts, passes, tokens, time.perf_counter() - started)


def _repeated(text: torch.Tensor, context: int, length: int = 4) -> float:
    """Share of written tokens that end a stretch which the text had before."""
    ids = text[0].tolist()
    stretches = [tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)]
    written = range(max(context - length + 1, 0), len(stretches))
    return sum(stretches[i] in stretches[:i] for i in written) / len(written)


def _differing(asked: Sequence[Sequence[int]], prompts: PromptTokens, s: Mapping[str, Any]) -> float:
    """How many texts are not those of greedy decoding, in float32."""
    model, _ = load("smollm2")
    model.generation_config.eos_token_id = None
    expected = _write(model, asked, s["exact_tokens"])
    how = Speculation(ParallelPromptDecoding(prompts), Fixed(max(s["limits"])))
    return float(len(asked) - _write(model, asked, s["exact_tokens"], how).alike(expected))
