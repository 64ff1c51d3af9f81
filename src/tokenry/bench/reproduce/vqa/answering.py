"""One way of running the model on one set of questions: what it answers, and which patches it answers from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from transformers import PreTrainedModel

from tokenry.bench.reproduce.vqa.informed import told
from tokenry.bench.reproduce.vqa.predictions import Predictions
from tokenry.bench.reproduce.vqa.question_sets import QuestionSet, Round
from tokenry.bench.reproduce.vqa.recorder import recorders
from tokenry.data.questions.examples import exact_match
from tokenry.hosts import Host, Session
from tokenry.reduce import Reducer, reduced


def answer(
    model: PreTrainedModel, processor: Any, methods: Sequence[Reducer], asked: QuestionSet
) -> Predictions:
    """Put a set of questions to the model, reduced by a chain of methods.

    Args:
        model: see `QuestionSet.of`.
        processor: its processor.
        methods: in the order in which they act; none leaves the model as it is. What recorders note comes along, and
            those that want to know the questions are told.
        asked: the questions.
    """
    parts = []
    started = time.perf_counter()
    for round_ in asked.rounds:
        for recorder in recorders(methods):
            recorder.log.clear()
        parts.append(_round(model, processor, told(methods, round_), asked, round_))
    return replace(Predictions.join(parts), seconds=time.perf_counter() - started)


def _round(
    model: Any, processor: Any, methods: Sequence[Reducer], asked: QuestionSet, round_: Round
) -> Predictions:
    inputs = asked.encoded.inputs | round_.inputs
    width = inputs["input_ids"].shape[1]
    # And the end of the answer.
    longest = max(_length(processor, text) for e in round_.examples for text in e.references or ("",)) + 1
    with ExitStack() as stack, torch.inference_mode():
        run = stack.enter_context(reduced(model, methods, encoded=asked.encoded)) if methods else None
        ids = model.generate(**inputs, max_new_tokens=longest, do_sample=False)
    answers = processor.batch_decode(ids[:, width:], skip_special_tokens=True)
    kept, counts = _kept(run, len(Host.of(model).layers), asked, round_)
    return Predictions(
        correct=np.array(
            [
                float(any(exact_match(a, text) for text in e.references))
                for a, e in zip(answers, round_.examples, strict=True)
            ]
        ),
        objects=_recall(kept, asked.objects),
        asked=_recall(kept, round_.asked),
        counts=counts,
        text=round_.text,
        seeds=np.full(len(answers), asked.seed),
        kinds=tuple(e.kind for e in round_.examples),
        pictures=tuple(e.picture for e in round_.examples),
        answers=tuple(a.strip() for a in answers),
        readings={name: values.numpy() for r in recorders(methods) for name, values in r.log},
    )


def _length(processor: Any, text: str) -> int:
    return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def _kept(
    run: Session | None, layers: int, asked: QuestionSet, round_: Round
) -> tuple[Bool[np.ndarray, "rows n"], Float[np.ndarray, "rows layers"]]:
    """Which patches reach the last layer, and how many tokens each layer has."""
    if run is None:
        every = np.array(asked.lengths, dtype=np.float64)[:, None]
        return np.arange(asked.objects.shape[1]) < every, np.repeat(every, layers, 1)
    kept = np.zeros_like(asked.objects)
    for row, item in zip(kept, run.trace, strict=True):
        row[: item.n] = item.kept_at(layers - 1).cpu().numpy()
    return kept, (run.lengths.cpu().numpy() - round_.text[:, None]).astype(np.float64)


def _recall(
    kept: Bool[np.ndarray, "rows n"], wanted: Bool[np.ndarray, "rows n"]
) -> Float[np.ndarray, " rows"]:
    """Share of the wanted patches that are kept; NaN where none is wanted."""
    total = wanted.sum(1)
    return np.where(total > 0, (kept & wanted).sum(1) / np.maximum(total, 1), np.nan)
