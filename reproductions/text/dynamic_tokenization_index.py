"""Dynamic tokenization: how well an index of very many rows finds the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.text.dynamic_tokenization.large_vocabulary import LargeVocabulary
from tokenry.text.knn import KnnIndex
from tokenry.text.training import train_bpe
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett import Hypernetwork


@torch.no_grad()
def measure_index(
    settings: Mapping[str, Any],
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    hypernet: Hypernetwork,
    texts: Sequence[str],
    prompts: list[str],
) -> dict[str, float]:
    """How often a search in a few cells finds what an exact search finds, and what it costs."""
    sizes = settings["index"]
    longer = ByteVocab.from_tokenizer(train_bpe(texts, sizes["real"]))
    large = LargeVocabulary(model, tokenizer, [t for t in longer.token_bytes if t], hypernet)
    real = large.output_rows.float()
    generator = torch.Generator().manual_seed(0)
    covariance = torch.cov(real.T) + 1e-6 * torch.eye(real.shape[1])
    noise = torch.randn(sizes["rows"] - len(real), real.shape[1], generator=generator)
    rows = torch.cat([real, real.mean(0) + noise @ torch.linalg.cholesky(covariance).T])
    queries = _hidden(model, tokenizer, prompts, sizes["queries"])
    exact = KnnIndex(rows).search(queries, 1)
    index = KnnIndex(rows, cells=sizes["cells"])
    found = index.search(queries, 20, nprobe=sizes["nprobe"])
    by_logit = _best_by_logit(rows, queries)
    return {
        "rows": len(rows),
        "predicted for real tokens": len(real),
        "cells": sizes["cells"],
        "cells looked at": sizes["nprobe"],
        "recall at 1": round(float((found.ids[:, 0] == exact.ids[:, 0]).float().mean()), 4),
        "share of the dot products": round(found.products / exact.products, 4),
        "largest logit among the 20": round(float((found.ids == by_logit[:, None]).any(1).float().mean()), 4),
    }


def _best_by_logit(rows: Float[Tensor, "n d"], queries: Float[Tensor, "q d"]) -> Int[Tensor, " q"]:
    """The token that the whole softmax finds most likely."""
    return KnnIndex(rows, metric="dot").search(queries, 1).ids[:, 0]


def _hidden(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], number: int
) -> Float[Tensor, "q d"]:
    """Hidden states, as the head sees them, at places of texts."""
    states = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        states.append(model.base_model(input_ids=ids).last_hidden_state[0, 8::16])
        if sum(map(len, states)) >= number:
            break
    return torch.cat(states)[:number].float()
