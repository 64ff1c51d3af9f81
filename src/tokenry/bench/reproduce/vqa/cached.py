"""Answers that are kept: what a model said under a chain of methods, run again only where something changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.lines import digest
from tokenry.bench.reproduce.vqa import answering, informed, places, predictions, question_sets, recorder
from tokenry.bench.reproduce.vqa.predictions import Predictions
from tokenry.bench.reproduce.vqa.question_sets import QuestionSet
from tokenry.reduce import Reducer

_MODULES = (answering, informed, places, predictions, question_sets, recorder)


@dataclass(eq=False)
class CachedAnswers:
    """What a model answered to sets of questions, by everything that answers depend on.

    Attributes:
        model: see `QuestionSet.of`.
        processor: its processor.
        cache: folder where predictions are kept; None keeps them as long as this lives.
        code: modules beside tokenry's methods and hosts that answers depend on.
    """

    model: PreTrainedModel
    processor: Any
    cache: Path | None = None
    code: tuple[ModuleType, ...] = ()
    _known: dict[str, Predictions] = field(default_factory=dict, init=False, repr=False)

    def answer(
        self, methods: Sequence[Reducer], identity: Sequence[Any], asked: Callable[[], QuestionSet]
    ) -> Predictions:
        """Put a set of questions to the model under a chain of methods, unless that was done before.

        Args:
            methods: in the order in which they act.
            identity: JSON values that tell the set from every other.
            asked: makes the set; called only if it is needed.
        """
        key = digest(
            self._circumstances,
            [m.to_json() for m in methods],
            environment.foreign_code(tuple(methods)),
            list(identity),
        )
        path = None if self.cache is None else self.cache / f"{key}.safetensors"
        found = self._known.get(key) if path is None else Predictions.load(path)
        if found is None:
            found = answering.answer(self.model, self.processor, methods, asked())
            if path is None:
                self._known[key] = found
            else:
                found.save(path)
        return found

    def forget(self) -> None:
        """Empty the cache."""
        self._known.clear()
        for kept in () if self.cache is None else self.cache.glob("*.safetensors"):
            kept.unlink()

    @cached_property
    def _circumstances(self) -> list[Any]:
        """Model, versions and the code that predictions are made by."""
        facts = environment.facts(self.model)
        return [
            [facts[k] for k in ("fingerprint", "dtype", "attention", "device", "code", "versions")],
            [inspect.getsource(module) for module in (*_MODULES, *self.code)],
        ]
