"""Octopus v4: does one functional token choose a worker as well as a sentence encoder, and as well as a spelt name?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from tokenry.bench.reproduce.octopus_queries import Queries, make_queries
from tokenry.bench.reproduce.octopus_workers import GENERAL, octopus_graph, octopus_loaders
from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.data.text.manpages import manpages_provenance
from tokenry.hosts.encoding import encode_plain
from tokenry.models.load import load
from tokenry.predict.octopus_v4 import FunctionalRouter, Octopus, WorkerCall
from tokenry.predict.octopus_v4.adapter import LoraSettings, with_lora
from tokenry.predict.octopus_v4.tokens import CallPrompt, add_functional_tokens
from tokenry.predict.octopus_v4.training import CallBatches, CallObjective, RoutingExample
from tokenry.text.string_vectors import SentenceVectors
from tokenry.tokens.errors import InputError
from tokenry.train.loop import LoopSettings

_TESTS = ("new things", "held-out paraphrases")


_OURS, _FREE, _SPELT, _CENTROID = (
    "functional token",
    "functional token, unmasked",
    "spelt name",
    "nearest centroid",
)


class _Routed(NamedTuple):
    """What a router decided for one query, and after how many tokens that was clear, where those were counted."""

    worker: str | None
    argument: str | None
    tokens: int = 0


class _Measured(NamedTuple):
    """One seed's routers on both tests.

    Attributes:
        rows: Arm -> column -> value.
        same_answers: Share of lookups and conversions that get the answer which the true call gives.
        sure: Least confidence -> how many calls pass, and how many of those are right.
        answers: Query -> who answered what.
    """

    rows: dict[str, dict[str, float]]
    same_answers: float
    sure: dict[str, dict[str, Any]]
    answers: dict[str, dict[str, Any]]


def experiment(study: Study) -> Outcome:
    """Fine-tune SmolLM2 to route with functional tokens, and to spell names; measure both, and nearest centroids."""
    s = study.settings
    found = [_measure(study, seed) for seed in study.seeds]
    rows = {
        arm: {column: [one.rows[arm][column] for one in found] for column in columns}
        for arm, columns in found[0].rows.items()
    }
    ours, names, centroid = rows[_OURS], rows[_SPELT], rows[_CENTROID]
    known, held_out = (f"right worker, {name}" for name in _TESTS)
    figures = {
        "accuracy": ours[known],
        "accuracy on held-out paraphrases": ours[held_out],
        "accuracy over nearest centroid": _minus(ours[known], centroid[known]),
        "accuracy over nearest centroid on paraphrases": _minus(ours[held_out], centroid[held_out]),
        "accuracy over spelt names on paraphrases": _minus(ours[held_out], names[held_out]),
        "tokens of the decision": rows[_FREE]["tokens of the decision"],
        "tokens of a spelt decision": names["tokens of the decision"],
        "same answer": [one.same_answers for one in found],
    }
    return Outcome(
        metric="share of queries in held-out phrasings that reach the right of seven workers",
        ours=Arm("one functional token a worker", tuple(ours[held_out])),
        baseline=Arm("nearest centroid of MiniLM's sentence vectors", tuple(centroid[held_out])),
        figures={name: Figure.of(values) for name, values in figures.items()},
        tables={
            "routing": {
                arm: {column: round(Figure.of(values).value, 4) for column, values in columns.items()}
                for arm, columns in rows.items()
            },
            "only calls of some confidence": found[0].sure,
            "answers": found[0].answers,
        },
        details={
            "examples": {
                "training": 7 * s["train"],
                "each test": 7 * s["test"],
                "steps of each router": s["steps"],
            }
        },
        notes=(
            "The configured package sources have no RFCs: licences stand in for them. A seventh worker, SmolLM2 "
            "itself, takes what is left.",
            "Both routers are SmolLM2-135M with the same LoRA, examples and steps; neither sees descriptions of the "
            "workers in its prompt. Bible, licences and manual are looked up, not read by a model.",
            "Functional tokens are decoded with the first token masked to the workers'; unmasked, as spelt names are, "
            "in the row of that name, where the tokens of the decision are counted.",
            "Fewer queries than the specification's 1500, each seen once by each router, to stay within minutes of one "
            "core. The stage with descriptions in the prompt is left out.",
        ),
        data=(
            *manpages_provenance("en"),
            *load_corpus("bible", limit=1).provenance,
            *load_corpus("licences", limit=1).provenance,
        ),
    )


def _measure(study: Study, seed: int) -> _Measured:
    """Train both routers and put both tests to them."""
    s = study.settings
    queries = make_queries(s["train"], s["test"], seed, pages=s["pages"])
    octopus, router = _octopus(study, queries, seed)
    spell = _speller(study, queries, seed)
    rows: dict[str, dict[str, float]] = {}
    lengths: dict[str, list[int]] = {_FREE: [], _SPELT: []}
    calls: list[tuple[WorkerCall, RoutingExample]] = []
    for name, asked in zip(_TESTS, (queries.new_things, queries.paraphrases), strict=True):
        texts = [example.query for example in asked]
        chosen = octopus.route_many(texts)
        calls += zip(chosen, asked, strict=True)
        routed = {
            _OURS: [_Routed(call.worker, call.argument) for call in chosen],
            _FREE: _unmasked(router, texts),
            _SPELT: spell(texts),
            _CENTROID: [_Routed(worker, None) for worker in _nearest_centroids(queries.train, texts)],
        }
        for arm, found in routed.items():
            row = rows.setdefault(arm, {})
            row[f"right worker, {name}"] = _share(found, asked, 1)
            if found[0].argument is not None:
                row[f"and argument, {name}"] = _share(found, asked, 2)
            if arm in lengths:
                lengths[arm] += [one.tokens for one in found]
    for arm, counts in lengths.items():
        rows[arm]["tokens of the decision"] = sum(counts) / len(counts)
    answers = _answers(octopus, queries.paraphrases, s["answers"])
    return _Measured(rows, _same_answers(calls, s["pages"]), _by_confidence(calls), answers)


# ---------------------------------------------------------------------------------------------------- the routers


def _octopus(study: Study, queries: Queries, seed: int) -> tuple[Octopus, FunctionalRouter]:
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


def _unmasked(router: FunctionalRouter, asked: Sequence[str]) -> list[_Routed]:
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
        found.append(_Routed(one.worker, one.argument, length))
    return found


def _speller(study: Study, queries: Queries, seed: int) -> Callable[[Sequence[str]], list[_Routed]]:
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

    def read(row: list[int]) -> _Routed:
        row = row[: row.index(end)] if end in row else row
        text = tokenizer.decode(row)
        found = re.match(r"(\w+)\('(.*)'\)", text, re.DOTALL)
        # a name is decided by the token that opens its bracket; the bracket alone is not counted
        length = next((i for i in range(len(row)) if "(" in tokenizer.decode(row[: i + 1])), len(row))
        return _Routed(found[1], found[2], length) if found else _Routed(None, "", length)

    def spell(asked: Sequence[str]) -> list[_Routed]:
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


def _nearest_centroids(train: Sequence[RoutingExample], asked: Sequence[str]) -> list[str]:
    """The worker whose training queries have the nearest mean vector."""
    encode = SentenceVectors.minilm(cached=False)
    workers = sorted({example.worker for example in train})
    seen = encode([example.query for example in train])
    owner = torch.tensor([workers.index(example.worker) for example in train])
    centroids = F.normalize(torch.stack([seen[owner == i].mean(0) for i in range(len(workers))]), dim=1)
    return [workers[i] for i in (encode(asked) @ centroids.T).argmax(1).tolist()]


# ---------------------------------------------------------------------------------------------------- the figures


def _share(found: Sequence[_Routed], asked: Sequence[RoutingExample], parts: int) -> float:
    """Share of queries with the right worker, or with the right worker and argument."""
    right = [
        (one.worker, one.argument)[:parts] == (example.worker, example.argument)[:parts]
        for one, example in zip(found, asked, strict=True)
    ]
    return sum(right) / len(right)


def _same_answers(calls: Sequence[tuple[WorkerCall, RoutingExample]], pages: int | None) -> float:
    """Share of the queries for lookups and conversions that get the answer which the true call gives."""
    workers = {name: load() for name, load in octopus_loaders(pages).items() if name != GENERAL}

    def said(worker: str, argument: str) -> str:
        try:
            return workers[worker](argument)
        except InputError as error:
            return f"refused: {error}"

    same = [
        call.worker == example.worker
        and said(call.worker, call.argument) == said(example.worker, example.argument)
        for call, example in calls
        if example.worker != GENERAL
    ]
    return sum(same) / len(same)


def _by_confidence(calls: Sequence[tuple[WorkerCall, RoutingExample]]) -> dict[str, dict[str, Any]]:
    """Threshold -> how many calls pass, and how many of those are right."""
    found = {}
    for threshold in (0.0, 0.5, 0.9, 0.99):
        passed = [call.worker == example.worker for call, example in calls if call.confidence >= threshold]
        right = round(sum(passed) / len(passed), 4) if passed else None
        found[f"at least {threshold}"] = {
            "share of calls": round(len(passed) / len(calls), 4),
            "right": right,
        }
    return found


def _answers(octopus: Octopus, asked: Sequence[RoutingExample], count: int) -> dict[str, dict[str, Any]]:
    """One query a worker, for some workers, answered through the graph."""
    first = {example.worker: example for example in reversed(asked)}
    found = {}
    for example in list(first.values())[:count]:
        answer = octopus.answer(example.query)
        call = answer.hops[0].call
        found[example.query] = {"worker": call.worker, "asked": call.argument, "answer": answer.text[:160]}
    return found


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
