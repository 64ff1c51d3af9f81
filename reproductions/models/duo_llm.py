"""Duo-LLM: how much would each token gain from the best routing, and how near to it do trained routers come?"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from reproductions.models.duo_llm_routings import fixed_patterns, loop_settings, train_routers
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.adaptive.duo_llm.model import Choice, DuoForCausalLM, convert
from tokenry.models.adaptive.duo_llm.oracle import OracleResult, oracle
from tokenry.models.adaptive.duo_llm.training import RandomRouting
from tokenry.text.training import train_bpe
from tokenry.train.language import TokenBatches, pack


def experiment(study: Study) -> Outcome:
    """Train under random routing, search all routings of held-out tokens, train routers, and compare."""
    s, layers = study.settings, study.settings["layers"]
    corpus = load_corpus(s["corpus"], limit=s["bytes"])
    train_on, held_out = corpus.split(s["held_out"])
    tokenizer = train_bpe(train_on.documents, s["vocabulary"])
    ids = pack(tokenizer, train_on.documents)
    test = _windows(pack(tokenizer, held_out.documents), s["context"], s["measured_tokens"])

    found: dict[str, dict[str, list[float]]] = {}  # row -> column -> value of each seed
    figures: dict[str, list[float]] = {}
    half = layers // 2
    for seed in study.seeds:
        duo = _model(s, seed)
        batches = TokenBatches(ids, s["context"], s["batch"], seed=seed)
        study.train(RandomRouting(duo), batches, loop_settings(s["steps"], s["lr"]), f"both-{seed}")
        best = oracle(duo, test, prefix="big", rows=s["rows"])
        values = fixed_patterns(duo, test, best, s["patterns"], seed)
        for bigs in s["budgets"]:
            loss, share = train_routers(
                study, copy.deepcopy(duo), batches, test, bigs / layers, f"{bigs}-{seed}"
            )
            values[f"{bigs} big"] |= {"routers": loss, "routers, big layers per token": share * layers}
        for row, columns in values.items():
            for column, value in columns.items():
                found.setdefault(row, {}).setdefault(column, []).append(value)
        for name, value in _figures(values, best, half, layers).items():
            figures.setdefault(name, []).append(value)

    middle = found[f"{half} big"]
    return Outcome(
        metric=f"nats per token of held-out documents ({s['corpus']}), half of the feed-forward layers big",
        ours=Arm.of("trained routers", tuple(middle["routers"])),
        baseline=Arm.of(f"best of {s['patterns']} random patterns", tuple(middle["best random pattern"])),
        measurements={name: Measurement.of(v) for name, v in figures.items()},
        tables={
            "nats per token": {
                row: {column: round(Measurement.of(v).value, 4) for column, v in columns.items()}
                for row, columns in found.items()
            }
        },
        details={"tokens": int(test[:, 1:].numel()), "routings": 2**layers},
        data=corpus.provenance,
    )


def _model(s: Any, seed: int) -> DuoForCausalLM:
    config = LlamaConfig(
        vocab_size=s["vocabulary"],
        hidden_size=s["width"],
        intermediate_size=s["inner"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["heads"],
        max_position_embeddings=s["context"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        host = LlamaForCausalLM(config)
    return convert(host, small=s["small"], start="random", seed=seed)


def _windows(ids: Int[Tensor, " n"], length: int, tokens: int) -> Int[Tensor, "b length"]:
    """Stretches that lie evenly over a text."""
    rows = max(1, tokens // length)
    starts = torch.linspace(0, len(ids) - length, rows).long()
    return ids[starts[:, None] + torch.arange(length)]


def _figures(
    values: dict[str, dict[str, float]], best: OracleResult, half: int, layers: int
) -> dict[str, float]:
    exact = [values[f"{b} big"]["oracle, exactly"] for b in range(layers + 1)]
    all_big = values[f"{layers} big"]["first layers big"]
    middle = values[f"{half} big"]
    lowest = exact.index(min(exact))
    depth = "depth of the oracle's big layers"
    joint = torch.stack([best.difficulty, best.of([Choice.SMALL] * layers)])
    return {
        "oracle with one big layer over all big": exact[1] / all_big,
        "oracle's best number of big layers": float(lowest),
        "oracle's best number, from the nearer end": float(min(lowest, layers - lowest)),
        "routers over best random pattern": middle["routers"] / middle["best random pattern"],
        "routers over oracle": middle["routers"] / exact[half],
        "depth of the big layer at 1, less that at all but 1": values["1 big"][depth]
        - values[f"{layers - 1} big"][depth],
        "correlation of difficulty with loss": float(torch.corrcoef(joint)[0, 1]),
    }
