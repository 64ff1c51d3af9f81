"""Predictions: what one way of running the model answered to every question, and measurements of several of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tokenry.bench.reproduce.measurement import Measurement
from tokenry.bench.stats import DIFFERENCES, paired_interval
from tokenry.tokens.files import whole_file


@dataclass(frozen=True, eq=False)
class Predictions:
    """One arm's answers to all questions, in the order of the questions.

    Attributes:
        correct: 1 where the answer is the reference, else 0; in between for a mean of repetitions.
        objects: share of the patches under objects and signs that reach the last decoder layer.
        asked: the same for the patches that the answer depends on.
        counts: visual tokens in each decoder layer.
        text: other tokens of the prompt.
        kinds: kind of each question.
        pictures: the picture each question is about.
        seeds: the set each question belongs to.
        answers: what the model said.
        readings: what recorders noted.
        seconds: how long it took to run.
    """

    correct: Float[np.ndarray, " q"]
    objects: Float[np.ndarray, " q"]
    asked: Float[np.ndarray, " q"]
    counts: Float[np.ndarray, "q layers"]
    text: Float[np.ndarray, " q"]
    seeds: Int[np.ndarray, " q"]
    kinds: tuple[str, ...]
    pictures: tuple[str, ...]
    answers: tuple[str, ...] = ()
    readings: Mapping[str, Float[np.ndarray, "q ..."]] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Several sets of questions as one."""
        joined: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS}
        joined |= {name: tuple(v for p in parts for v in getattr(p, name)) for name in _LISTS}
        readings = {n: np.concatenate([p.readings[n] for p in parts]) for n in parts[0].readings}
        return cls(**joined, readings=readings, seconds=sum(p.seconds for p in parts))

    @classmethod
    def mean(cls, repetitions: Sequence[Self]) -> Self:
        """The mean of several runs on the same questions (a method that draws lots, several settings)."""
        first = repetitions[0]
        arrays = {name: np.mean([getattr(r, name) for r in repetitions], axis=0) for name in _ARRAYS}
        readings = {n: np.mean([r.readings[n] for r in repetitions], axis=0) for n in first.readings}
        return cls(
            **arrays | {"seeds": first.seeds},
            kinds=first.kinds,
            pictures=first.pictures,
            readings=readings,
            seconds=sum(r.seconds for r in repetitions),
        )

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(self.correct.mean())

    @property
    def tokens(self) -> float:
        """Visual tokens per layer, on average."""
        return float(self.counts.mean())

    def by_kind(self) -> dict[str, float]:
        """Share of right answers for each kind of question."""
        kinds = np.array(self.kinds)
        return {str(kind): float(self.correct[kinds == kind].mean()) for kind in sorted(set(self.kinds))}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        tensors |= {
            _READING + name: np.ascontiguousarray(values, np.float32)
            for name, values in self.readings.items()
        }
        texts = {name: json.dumps(getattr(self, name)) for name in (*_LISTS, "seconds")}
        with whole_file(path) as scratch:
            save_file(tensors, scratch, texts)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read it; None if there is none, or what is there cannot be read."""
        try:
            with safe_open(path, "np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                texts = {name: json.loads(text) for name, text in file.metadata().items()}
            whole: dict[str, Any] = {name: tensors[name] for name in _ARRAYS}
            whole |= {name: tuple(texts[name]) for name in _LISTS}
            seconds = float(texts["seconds"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        readings = {n.removeprefix(_READING): v for n, v in tensors.items() if n.startswith(_READING)}
        return cls(**whole, readings=readings, seconds=seconds)


_ARRAYS = ("correct", "objects", "asked", "counts", "text", "seeds")
_LISTS = ("kinds", "pictures", "answers")
_READING = "reading: "
SHARES = (0.0, 1.0)


def mean_over(
    answered: Predictions,
    values: Float[np.ndarray, " q"],
    where: Bool[np.ndarray, " q"] | None = None,
    *,
    scale: float = 1.0,
    bounds: tuple[float, float] = SHARES,
) -> Measurement:
    """The mean of a value per question, over the questions for which it exists.

    Args:
        answered: whose questions they are.
        values: one per question; NaN = none.
        where: only these questions.
        scale: 100 gives points.
        bounds: the least and the greatest value that there can be, before scaling.
    """
    chosen = np.isfinite(values) if where is None else np.isfinite(values) & where
    values, seeds = values[chosen], answered.seeds[chosen]
    pictures = [p for p, c in zip(answered.pictures, chosen, strict=True) if c]
    interval = paired_interval(values, pictures, bounds=bounds)
    by_seed = tuple(scale * _mean(values[seeds == seed]) for seed in sorted(set(answered.seeds.tolist())))
    return Measurement(scale * interval.mean, scale * interval.low, scale * interval.high, by_seed)


def points(
    better: Predictions,
    worse: Predictions,
    what: str = "correct",
    where: Bool[np.ndarray, " q"] | None = None,
) -> Measurement:
    """How many points one arm is above another, question by question."""
    difference = getattr(better, what) - getattr(worse, what)
    return mean_over(better, difference, where, scale=100, bounds=DIFFERENCES)


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
