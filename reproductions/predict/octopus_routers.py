"""Octopus v4: a router with functional tokens, one that spells names, and nearest centroids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from reproductions.predict.octopus_queries import Queries
from reproductions.predict.octopus_workers import octopus_graph, octopus_loaders
from tokenry.bench.reproduce import Study
from tokenry.hosts.encoding import encode_plain
from tokenry.models.load import load
from tokenry.predict.octopus_v4 import FunctionalRouter, Octopus
from tokenry.predict.octopus_v4.adapter import LoraSettings, with_lora
from tokenry.predict.octopus_v4.tokens import CallPrompt, add_functional_tokens
from tokenry.predict.octopus_v4.training import CallBatches, CallObjective, RoutingExample
from tokenry.text.string_vectors import SentenceVectors
from tokenry.train.loop import LoopSettings


class Routed(NamedTuple):
    """What a router decided for one query, and after how many tokens that was clear, where those were counted."""

    worker: str | None
    argument: str | None
    tokens: int = 0


def train_octopus(study: Study, queries: Queries, seed: int) -> tuple[Octopus, FunctionalRouter]:
    """Train a router with functional tokens, save it with its graph, and load both for use."""
    graph = octopus_graph()
    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    tokens = add_functional_tokens(model, tokenizer, graph.callees())
    adapted = with_lora(model, tokens, _lora(study, seed))

    def call(example: RoutingExample) -> list[int]:
        return tokens.encode(tokenizer, example.worker, example.argument)

    batches = CallBatches(
        queries.train, CallPrompt(tokenizer), call, batch=study.settings["batch"], seed=seed
    )
    _train(study, adapted, batches, f"functional-{seed}")
    folder = study.folder / f"router-{seed}"
    FunctionalRouter(adapted, tokenizer, tokens).save(folder, graph)
    router, graph = FunctionalRouter.load(
        folder, *load("smollm2", dtype=torch.bfloat16), max_new_tokens=study.settings["call_tokens"], batch=32
    )
    loaders = {**octopus_loaders(study.settings["pages"]), graph.start: lambda: router}
    return Octopus(graph, loaders, keep=len(loaders)), router


def unmasked(router: FunctionalRouter, asked: Sequence[str]) -> list[Routed]:
    """What the router writes when any token may come first, as in the reference."""
    tokens, tokenizer = router.tokens, router.tokenizer
    free = FunctionalRouter(
        router.model,
        tokenizer,
        tokens,
        constrained=False,
        max_new_tokens=router.max_new_tokens,
        batch=router.batch,
    )
    found = []
    for one in free.write(asked, tokens.workers):
        ids = tokenizer(one.text, add_special_tokens=False)["input_ids"]
        length = next((at + 1 for at, token in enumerate(ids) if token in tokens.ids), len(ids))
        found.append(Routed(one.worker, one.argument, length))
    return found


def train_speller(study: Study, queries: Queries, seed: int) -> Callable[[Sequence[str]], list[Routed]]:
    """Train a router that spells the worker's name where the other has a functional token; return it."""
    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    adapted = with_lora(model, None, _lora(study, seed))
    prompt = CallPrompt(tokenizer)
    end = tokenizer.eos_token_id

    def call(example: RoutingExample) -> list[int]:
        return [*encode_plain(tokenizer, [f"{example.worker}('{example.argument}')"])[0], end]

    batches = CallBatches(queries.train, prompt, call, batch=study.settings["batch"], seed=seed)
    _train(study, adapted, batches, f"spelt-{seed}")
    merged = adapted.merge_and_unload()

    def read(row: list[int]) -> Routed:
        row = row[: row.index(end)] if end in row else row
        text = tokenizer.decode(row)
        found = re.match(r"(\w+)\('(.*)'\)", text, re.DOTALL)
        # a name is decided by the token that opens its bracket; the bracket alone is not counted
        length = next((i for i in range(len(row)) if "(" in tokenizer.decode(row[: i + 1])), len(row))
        return Routed(found[1], found[2], length) if found else Routed(None, "", length)

    def spell(asked: Sequence[str]) -> list[Routed]:
        found = []
        for at in range(0, len(asked), 32):
            inputs = tokenizer.pad(
                {"input_ids": [prompt(query) for query in asked[at : at + 32]]},
                padding_side="left",
                return_tensors="pt",
            )
            with torch.no_grad():
                ids = merged.generate(
                    **inputs, do_sample=False, max_new_tokens=study.settings["call_tokens"], eos_token_id=end
                )
            found += [read(row) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
        return found

    return spell


def _lora(study: Study, seed: int) -> LoraSettings:
    return LoraSettings(rank=study.settings["rank"], alpha=2 * study.settings["rank"], seed=seed)


def _train(study: Study, model: Any, batches: CallBatches, name: str) -> None:
    s = study.settings
    objective = CallObjective(model, functional_weight=s["functional_weight"])
    schedule = LoopSettings(
        steps=s["steps"],
        lr=s["lr"],
        warmup=max(1, s["steps"] // 10),
        lr_scale=objective.lr_scale,
        weight_decay=0.0,
        precision="bf16",
        checkpoint_every=60,
    )
    study.train(objective, batches, schedule, name)


def nearest_centroids(train: Sequence[RoutingExample], asked: Sequence[str]) -> list[str]:
    """The worker whose training queries have the nearest mean vector."""
    encode = SentenceVectors.minilm(cached=False)
    workers = sorted({example.worker for example in train})
    seen = encode([example.query for example in train])
    owner = torch.tensor([workers.index(example.worker) for example in train])
    centroids = F.normalize(torch.stack([seen[owner == i].mean(0) for i in range(len(workers))]), dim=1)
    return [workers[i] for i in (encode(asked) @ centroids.T).argmax(1).tolist()]
