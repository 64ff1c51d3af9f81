"""Parallel Prompt Decoding: continuing contexts, and how many tokens a pass that took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from tokenry.models.load import load
from tokenry.predict.lm.ppd.prompts import PromptTokens
from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding
from tokenry.predict.lm.ppd.tree import best_trees, static_trees
from tokenry.predict.lm.proposer import Proposer
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling

_TABLE: Final = "share of tokens that are the first guess, the second, ..."


def continued(model: Any, contexts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """What the model writes after contexts of equal length."""
    ids = torch.tensor([list(context) for context in contexts])
    mask = torch.ones_like(ids)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
    ).tolist()


def decode_with_all(
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


def differing(asked: Sequence[Sequence[int]], prompts: PromptTokens, s: Mapping[str, Any]) -> float:
    """How many texts are not those of greedy decoding, in float32."""
    model, _ = load("smollm2")
    model.generation_config.eos_token_id = None
    expected = _write(model, asked, s["exact_tokens"])
    how = Speculation(ParallelPromptDecoding(prompts), Fixed(max(s["limits"])))
    return float(len(asked) - _write(model, asked, s["exact_tokens"], how).alike(expected))
