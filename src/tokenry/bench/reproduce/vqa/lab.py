"""A model, sets of held-out questions about scenes, and what an experiment can ask of the two.

Pictures are encoded once per set of questions and shared by all arms. Predictions depend on model, weights, questions,
methods and code version; once made they are kept in a cache, so that experiments share arms and an interrupted
reproduction goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float
from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.progress import progress_bar
from tokenry.bench.reproduce.design import Questions
from tokenry.bench.reproduce.measurement import Measurement
from tokenry.bench.reproduce.outcome import ACCURACY, Arm, Asked, Outcome
from tokenry.bench.reproduce.vqa.cached import CachedAnswers
from tokenry.bench.reproduce.vqa.predictions import Predictions, mean_over
from tokenry.bench.reproduce.vqa.question_sets import QuestionSets
from tokenry.data.questions import examples
from tokenry.data.questions.examples import Example
from tokenry.data.scenes import compose, scenes, style, textures
from tokenry.hosts import Host, decoder_flops
from tokenry.reduce import Reducer

Chain: TypeAlias = tuple[Reducer, ...]
"""Methods in the order in which they act; none = the model as it is."""
Arms: TypeAlias = dict[str, list[Chain]]
"""Ways of running the model, by name: a chain of methods, or several whose answers are averaged."""
_QUESTIONS: Final = (examples, compose, scenes, style, textures)
"""Modules that the questions come from, which are told apart by numbers alone."""


@dataclass(eq=False)
class VqaLab:
    """Puts questions to a vision-language model under every arm, and keeps what it answered.

    Attributes:
        model: a model that reads pictures.
        processor: its processor.
        name: what the model is called in results.
        cache: where predictions are kept; None keeps nothing.
        progress: whether to show progress on stderr.
    """

    model: PreTrainedModel
    processor: Any
    name: str = "embedded"
    cache: Path | None = None
    progress: bool = False

    @cached_property
    def sets(self) -> QuestionSets:
        """The questions that were asked so far, with their pictures."""
        return QuestionSets(self.model, self.processor)

    @property
    def host(self) -> Host:
        """The model as tokenry sees it."""
        return Host.of(self.model)

    def forget(self) -> None:
        """Empty the cache."""
        self._answers.forget()

    @cached_property
    def _answers(self) -> CachedAnswers:
        return CachedAnswers(self.model, self.processor, self.cache, (sys.modules[__name__], *_QUESTIONS))

    def ask(self, arms: Arms, questions: Questions, label: str = "asking") -> dict[str, Predictions]:
        """Put all questions under every arm.

        Args:
            arms: ways of running the model. What recorders in a chain note comes with the predictions.
            questions: what is asked.
            label: what the progress display says.
        """
        jobs = [(name, i, seed) for seed in questions.seeds for name in arms for i in range(len(arms[name]))]
        found: dict[tuple[str, int], list[Predictions]] = defaultdict(list)
        with progress_bar(label, shown=self.progress) as bar:
            for done, (name, i, seed) in enumerate(jobs):
                bar.at(done, len(jobs))
                made = partial(self.sets.get, questions, seed)
                identity = [questions.pictures, questions.per_picture, seed]
                found[name, i].append(self._answers.answer(arms[name][i], identity, made))
            bar.at(len(jobs), len(jobs))
        whole = {name: [Predictions.join(found[name, i]) for i in range(len(arms[name]))] for name in arms}
        return {name: runs[0] if len(runs) == 1 else Predictions.mean(runs) for name, runs in whole.items()}

    def patches(self, questions: Questions) -> tuple[list[Example], Bool[np.ndarray, "q n"]]:
        """The questions in the order of predictions, and the patches that each answer depends on."""
        rounds = [r for seed in questions.seeds for r in self.sets.get(questions, seed).rounds]
        return [e for r in rounds for e in r.examples], np.concatenate([r.asked for r in rounds])

    def visual_flops(self, counts: Sequence[float] | Float[np.ndarray, "*q layers"]) -> float:
        """FLOPs that the decoder spends on visual tokens alone, as papers count them: `counts` of them per layer."""
        rows = torch.from_numpy(np.atleast_2d(np.asarray(counts, dtype=np.float64))).round().long()
        return decoder_flops(self.host, rows, logits=0) / len(rows)

    def share_of_flops(self, found: Predictions, full: Predictions, *, visual: bool) -> float:
        """Prefill FLOPs against all tokens: of the visual tokens alone, or of the whole prompt."""
        if visual:
            return self.visual_flops(found.counts) / self.visual_flops(full.counts)
        rows = [torch.from_numpy(s.counts + s.text[:, None]).round().long() for s in (found, full)]
        return decoder_flops(self.host, rows[0]) / decoder_flops(self.host, rows[1])

    def outcome(
        self,
        what: tuple[str, str],
        ours: Predictions,
        baseline: Predictions,
        full: Predictions,
        measurements: Mapping[str, Measurement],
        answered: Mapping[str, Predictions],
        details: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """What an experiment found by asking.

        Args:
            what: names of the two arms of the claim.
            ours, baseline: what is measured, and the same for what the claim compares with.
            full: the model on all tokens.
            measurements: what the criteria of the design are about, by name.
            answered: everything that was run, by name.
            details: further JSON values.
        """
        facts = environment.facts(self.model, self.name)
        arms = [
            Arm(name, mean_over(p, p.correct))
            for name, p in zip((*what, f"{ACCURACY} on all tokens"), (ours, baseline, full), strict=True)
        ]
        tables = {
            "arms": self._scores(answered, full),
            "accuracy by kind of question": _kinds(answered),
        }
        asked = Asked(
            arms[2],
            f"{len(full.correct)} about {len(set(full.pictures))} held-out scenes",
            {k: facts[k] for k in ("model", "class", "fingerprint", "parameters", "dtype", "attention")},
            sum(p.seconds for p in answered.values()),
        )
        return Outcome(ACCURACY, arms[0], arms[1], measurements, tables, details or {}, asked=asked)

    def _scores(self, answered: Mapping[str, Predictions], full: Predictions) -> dict[str, list[Any]]:
        """One row for each arm; the first row names the columns."""
        table: dict[str, list[Any]] = {
            "arm": [ACCURACY, "object patches kept", "asked patches kept", "tokens per layer", "FLOPs"]
        }
        for name, p in answered.items():
            recall = [float(np.nanmean(values)) for values in (p.objects, p.asked)]
            flops = self.share_of_flops(p, full, visual=False)
            table[name] = [round(v, 4) for v in (p.accuracy, *recall)] + [round(p.tokens, 1), round(flops, 4)]
        return table


def _kinds(answered: Mapping[str, Predictions]) -> dict[str, list[Any]]:
    """Accuracy by kind of question, one row per arm; the first row names the kinds."""
    tables = {name: p.by_kind() for name, p in answered.items()}
    kinds = list(next(iter(tables.values())))
    return {"arm": kinds} | {name: [round(t[kind], 4) for kind in kinds] for name, t in tables.items()}
