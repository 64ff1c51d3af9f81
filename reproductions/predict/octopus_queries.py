"""Queries for the workers of `octopus_workers`: templates, things to ask for, and paraphrases that no training sees."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reproductions.predict.octopus_lookups import bible_verses, licences, manual_pages, python_docs
from reproductions.predict.octopus_templates import TEMPLATES, TOPICS
from reproductions.predict.octopus_units import UNITS
from reproductions.predict.octopus_workers import GENERAL
from tokenry.data.scenes.pack import load_pack
from tokenry.predict.octopus_v4.training import RoutingExample


@dataclass(frozen=True)
class Queries:
    """Queries with the calls that answer them.

    Attributes:
        train: What a router learns from.
        new_things: The same templates, things that `train` never asks for.
        paraphrases: Templates and things that `train` does not have.
    """

    train: tuple[RoutingExample, ...]
    new_things: tuple[RoutingExample, ...]
    paraphrases: tuple[RoutingExample, ...]


def make_queries(train: int, test: int, seed: int = 0, *, pages: int | None = None) -> Queries:
    """Make queries for all workers, as many for each.

    A fifth of the things that can be asked for (functions, verses, licences ...) is kept for the tests.

    Args:
        train: Queries of a worker to learn from.
        test: Queries of a worker in each of the two tests.
        seed: Which ones.
        pages: Manual pages to read; None reads all.
    """
    rng = random.Random(seed)
    parts: tuple[list[RoutingExample], ...] = ([], [], [])
    for worker, things in _things(rng, pages).items():
        rng.shuffle(things)
        kept = max(1, len(things) // 5)
        old, new = things[kept:], things[:kept]
        known, paraphrases = TEMPLATES[worker]
        for part, templates, asked, count in zip(
            parts, (known, known, paraphrases), (old, new, new), (train, test, test), strict=True
        ):
            part += (_example(worker, templates[i % len(templates)], rng.choice(asked)) for i in range(count))
    return Queries(*(tuple(rng.sample(part, len(part))) for part in parts))


def _example(worker: str, template: str, thing: Mapping[str, str]) -> RoutingExample:
    query = template
    for name, value in thing.items():
        query = query.replace(f"{{{name}}}", value)
    if worker == GENERAL:
        return RoutingExample(query, worker, query)
    if "y" in thing:
        return RoutingExample(query, worker, f"{thing['x']} to {thing['y']}")
    return RoutingExample(query, worker, thing["e" if "{e}" in template else "x"])


def _things(rng: random.Random, pages: int | None) -> dict[str, list[Mapping[str, str]]]:
    """Worker -> what it can be asked for."""
    return {
        "search_manual_pages": [
            {"x": name} for name, page in manual_pages(pages).items() if page.section in "12"
        ],
        "look_up_python_docs": [{"x": name} for name in python_docs()],
        "find_bible_verse": [{"x": quote} for quote in _quotes(rng)],
        "explain_licence": [{"x": name} for name in licences()],
        "convert_units": [
            {"x": f"{number} {unit}", "y": other}
            for units in UNITS.values()
            for unit in units
            for other in units
            if unit != other
            for number in (rng.randint(2, 99), rng.randint(100, 5000), rng.randint(11, 999) / 10)
        ],
        "name_emoji": [{"x": item.name, "e": item.emoji} for item in load_pack().objects],
        GENERAL: [{"x": topic} for topic in TOPICS],
    }


def _quotes(rng: random.Random, count: int = 600) -> Iterator[str]:
    """Four to six words in a row, without punctuation between them."""
    for verse in rng.sample(bible_verses(), count):
        runs = [run.split() for run in re.findall(r"[A-Za-z]+(?: [A-Za-z]+){3,}", verse)]
        if runs:
            words = rng.choice(runs)
            length = min(len(words), rng.randint(4, 6))
            start = rng.randrange(len(words) - length + 1)
            yield " ".join(words[start : start + length])
