"""Octopus v4: does one functional token choose a worker as well as a sentence encoder, and as well as a spelt name?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from reproductions.predict.octopus_queries import make_queries
from reproductions.predict.octopus_routers import (
    Routed,
    nearest_centroids,
    train_octopus,
    train_speller,
    unmasked,
)
from reproductions.predict.octopus_scores import by_confidence, share_right, share_same_answer, some_answers
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.data.text.manpages import manpages_provenance
from tokenry.predict.octopus_v4 import WorkerCall
from tokenry.predict.octopus_v4.training import RoutingExample

_TESTS = ("new things", "held-out paraphrases")


_OURS, _FREE, _SPELT, _CENTROID = (
    "functional token",
    "functional token, unmasked",
    "spelt name",
    "nearest centroid",
)


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
        ours=Arm.of("one functional token a worker", tuple(ours[held_out])),
        baseline=Arm.of("nearest centroid of MiniLM's sentence vectors", tuple(centroid[held_out])),
        measurements={name: Measurement.of(values) for name, values in figures.items()},
        tables={
            "routing": {
                arm: {column: round(Measurement.of(values).value, 4) for column, values in columns.items()}
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
    octopus, router = train_octopus(study, queries, seed)
    spell = train_speller(study, queries, seed)
    rows: dict[str, dict[str, float]] = {}
    lengths: dict[str, list[int]] = {_FREE: [], _SPELT: []}
    calls: list[tuple[WorkerCall, RoutingExample]] = []
    for name, asked in zip(_TESTS, (queries.new_things, queries.paraphrases), strict=True):
        texts = [example.query for example in asked]
        chosen = octopus.route_many(texts)
        calls += zip(chosen, asked, strict=True)
        routed = {
            _OURS: [Routed(call.worker, call.argument) for call in chosen],
            _FREE: unmasked(router, texts),
            _SPELT: spell(texts),
            _CENTROID: [Routed(worker, None) for worker in nearest_centroids(queries.train, texts)],
        }
        for arm, found in routed.items():
            row = rows.setdefault(arm, {})
            row[f"right worker, {name}"] = share_right(found, asked, 1)
            if found[0].argument is not None:
                row[f"and argument, {name}"] = share_right(found, asked, 2)
            if arm in lengths:
                lengths[arm] += [one.tokens for one in found]
    for arm, counts in lengths.items():
        rows[arm]["tokens of the decision"] = sum(counts) / len(counts)
    answers = some_answers(octopus, queries.paraphrases, s["answers"])
    return _Measured(rows, share_same_answer(calls, s["pages"]), by_confidence(calls), answers)


def _minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
