"""Octopus v4: how many queries are routed rightly, how surely, and what they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reproductions.predict.octopus_routers import (
    Routed,
)
from reproductions.predict.octopus_workers import GENERAL, octopus_loaders
from tokenry.predict.octopus_v4 import Octopus, WorkerCall
from tokenry.predict.octopus_v4.training import RoutingExample
from tokenry.tokens.errors import InputError


def share_right(found: Sequence[Routed], asked: Sequence[RoutingExample], parts: int) -> float:
    """Share of queries with the right worker, or with the right worker and argument."""
    right = [
        (one.worker, one.argument)[:parts] == (example.worker, example.argument)[:parts]
        for one, example in zip(found, asked, strict=True)
    ]
    return sum(right) / len(right)


def share_same_answer(calls: Sequence[tuple[WorkerCall, RoutingExample]], pages: int | None) -> float:
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


def by_confidence(calls: Sequence[tuple[WorkerCall, RoutingExample]]) -> dict[str, dict[str, Any]]:
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


def some_answers(octopus: Octopus, asked: Sequence[RoutingExample], count: int) -> dict[str, dict[str, Any]]:
    """One query a worker, for some workers, answered through the graph."""
    first = {example.worker: example for example in reversed(asked)}
    found = {}
    for example in list(first.values())[:count]:
        answer = octopus.answer(example.query)
        call = answer.hops[0].call
        found[example.query] = {"worker": call.worker, "asked": call.argument, "answer": answer.text[:160]}
    return found
