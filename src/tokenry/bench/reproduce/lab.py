"""The lab: one model, sets of held-out questions, and every way of running the model that an experiment asks for.

Pictures are encoded once per set of questions and shared by all arms. An answer sheet depends on model, weights,
questions, methods and code version; a sheet once made is kept in a cache, so that experiments share arms and an
interrupted reproduction goes on where it stopped.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.bench import environment
from tokenry.bench.lines import digest
from tokenry.bench.reproduce import controls, sheet
from tokenry.bench.reproduce.controls import Gauge
from tokenry.bench.reproduce.recipe import Questions
from tokenry.bench.reproduce.sheet import Sheet
from tokenry.data.questions import examples
from tokenry.data.questions.examples import Example, exact_match, load_scenes, region_mask
from tokenry.data.scenes import scenes
from tokenry.data.scenes.scenes import Box
from tokenry.hosts import Encoded, Host, Session, decoder_flops
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.reduce import Reducer, encode, reduced
from tokenry.reduce.fastv import FastV
from tokenry.reduce.vtc_cls import VtcCls
from tokenry.tokens import InputError

Chain: TypeAlias = tuple[Reducer, ...]
"""Methods in the order in which they act; none = the model as it is."""
Arms: TypeAlias = dict[str, list[Chain]]
"""Ways of running the model, by name: a chain of methods, or several whose answers are averaged."""


@dataclass(frozen=True, eq=False)
class Round:
    """One question about each picture of a set.

    Attributes:
        examples: the questions.
        inputs: the batch, without pixels.
        asked: patches that the answers depend on.
    """

    examples: tuple[Example, ...]
    inputs: dict[str, Tensor]
    asked: Bool[np.ndarray, "pictures n"]


@dataclass(frozen=True, eq=False)
class Set:
    """One seed's pictures, encoded, with their questions.

    Attributes:
        encoded: the pictures.
        rounds: the questions.
        objects: patches that show an object or a sign.
    """

    seed: int
    encoded: Encoded
    rounds: tuple[Round, ...]
    objects: Bool[np.ndarray, "pictures n"]


@dataclass(eq=False)
class Lab:
    """Runs arms on questions and keeps what they answered.

    Attributes:
        model: a vision-language model whose encoder has a [CLS] token and whose visual tokens form one square grid.
        processor: its processor.
        name: what the model is called in results.
        cache: where answer sheets are kept; None keeps nothing.
        progress: a progress display, or None.
    """

    model: PreTrainedModel
    processor: Any
    name: str = "embedded"
    cache: Path | None = None
    progress: Progress | None = None
    _sets: dict[tuple[Questions, int], Set] = field(default_factory=dict, init=False, repr=False)

    @property
    def host(self) -> Host:
        """The model as tokenry sees it."""
        return Host.of(self.model)

    def ask(self, arms: Arms, questions: Questions, label: str = "asking") -> dict[str, Sheet]:
        """Put all questions under every arm.

        Args:
            arms: ways of running the model. Gauges in a chain read, and their figures come with the sheet.
            questions: what is asked.
            label: what the progress display says.
        """
        jobs = [(name, i, seed) for seed in questions.seeds for name in arms for i in range(len(arms[name]))]
        found: dict[tuple[str, int], list[Sheet]] = defaultdict(list)
        task = self.progress.add_task(label, total=len(jobs)) if self.progress else None
        for name, i, seed in jobs:
            found[name, i].append(self._sheet(arms[name][i], questions, seed))
            if self.progress and task is not None:
                self.progress.advance(task)
        whole = {name: [Sheet.join(found[name, i]) for i in range(len(arms[name]))] for name in arms}
        return {name: runs[0] if len(runs) == 1 else Sheet.mean(runs) for name, runs in whole.items()}

    def fastv_at(self, flops: float, layer: int, n: int) -> FastV:
        """FastV with K = `layer` at given FLOPs on visual tokens, or the first step above: it is never given less.

        Args:
            flops: see `visual_flops`.
            layer: K.
            n: visual tokens of a picture.

        Raises:
            InputError: its full layers alone cost more.
        """
        layers = len(self.host.layers)
        for k in range(n + 1):
            if self.visual_flops([n] * layer + [k] * (layers - layer)) >= flops:
                if k == 0:
                    break
                return FastV(layer=layer, budget=k)
        raise InputError(f"FastV with K = {layer} cannot meet {flops:.3g} FLOPs in {layers} layers.")

    def patches(self, questions: Questions) -> tuple[list[Example], Bool[np.ndarray, "q n"]]:
        """The questions in the order of a sheet, and the patches that each answer depends on."""
        rounds = [r for seed in questions.seeds for r in self._set(questions, seed).rounds]
        return [e for r in rounds for e in r.examples], np.concatenate([r.asked for r in rounds])

    def visual_flops(self, counts: Sequence[float] | Float[np.ndarray, "*q layers"]) -> float:
        """FLOPs that the decoder spends on visual tokens alone, as papers count them: `counts` of them per layer."""
        rows = torch.from_numpy(np.atleast_2d(np.asarray(counts, dtype=np.float64))).round().long()
        return decoder_flops(self.host, rows, logits=0) / len(rows)

    def share_of_flops(self, found: Sheet, full: Sheet, *, visual: bool) -> float:
        """Prefill FLOPs against all tokens: of the visual tokens alone, or of the whole prompt."""
        if visual:
            return self.visual_flops(found.counts) / self.visual_flops(full.counts)
        rows = [torch.from_numpy(s.counts + s.text[:, None]).round().long() for s in (found, full)]
        return decoder_flops(self.host, rows[0]) / decoder_flops(self.host, rows[1])

    def scores(self, sheets: Mapping[str, Sheet], full: Sheet) -> dict[str, list[Any]]:
        """A table of the sheets, one row each; the first row names the columns."""
        table: dict[str, list[Any]] = {
            "arm": ["accuracy", "object patches kept", "asked patches kept", "tokens per layer", "FLOPs"]
        }
        for name, s in sheets.items():
            recall = [float(np.nanmean(values)) for values in (s.objects, s.asked)]
            flops = self.share_of_flops(s, full, visual=False)
            table[name] = [round(v, 4) for v in (s.accuracy, *recall)] + [round(s.tokens, 1), round(flops, 4)]
        return table

    # --- one arm on one set ---------------------------------------------------------------------------------------

    def _sheet(self, methods: Chain, questions: Questions, seed: int) -> Sheet:
        path = (
            None if self.cache is None else self.cache / f"{self._key(methods, questions, seed)}.safetensors"
        )
        known = None if path is None else Sheet.load(path)
        if known is not None:
            return known
        made = self._run(methods, self._set(questions, seed))
        if path is not None:
            made.save(path)
        return made

    def _key(self, methods: Chain, questions: Questions, seed: int) -> str:
        """Everything that a sheet depends on."""
        return digest(
            self._circumstances,
            [m.to_json() for m in methods],
            [questions.pictures, questions.per_picture, seed],
        )

    @cached_property
    def _circumstances(self) -> list[Any]:
        """Model, versions and the code that a sheet is made by."""
        facts = environment.facts(self.model)
        modules = (controls, sheet, sys.modules[__name__], scenes, examples)
        return [
            [facts[k] for k in ("fingerprint", "dtype", "attention", "device", "code", "versions")],
            [inspect.getsource(module) for module in modules],
        ]

    def _set(self, questions: Questions, seed: int) -> Set:
        if (questions, seed) not in self._sets:
            with torch.inference_mode():
                self._sets[questions, seed] = self._encode(questions, seed)
        return self._sets[questions, seed]

    def _encode(self, questions: Questions, seed: int) -> Set:
        n = questions.pictures * questions.per_picture
        by_picture: dict[str, list[Example]] = defaultdict(list)
        for example in load_scenes("test", n, seed, questions.per_picture):
            by_picture[example.picture].append(example)
        groups = list(by_picture.values())
        if any(len(group) != questions.per_picture for group in groups):
            raise InputError(
                f"Not every scene admits {questions.per_picture} questions; ask fewer per picture."
            )
        batches = [self._batch([group[j] for group in groups]) for j in range(questions.per_picture)]
        # Every block's [CLS] row, whatever method will want it.
        encoded = encode(self.model, batches[0], [VtcCls(budget=1.0, start=0, layer=-1)])
        (pictures,) = encoded.pictures.values()
        grid = (int(pictures.grid[0, 1]), int(pictures.grid[0, 2]))
        rounds = []
        for j, batch in enumerate(batches):
            asked = tuple(group[j] for group in groups)
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
            rounds.append(Round(asked, inputs, _patches([e.regions for e in asked], asked, grid)))
        objects = _patches([g[0].objects for g in groups], [g[0] for g in groups], grid)
        return Set(seed, encoded, tuple(rounds), objects)

    def _batch(self, asked: Sequence[Example]) -> dict[str, Tensor]:
        batch = self.processor(
            images=[e.image for e in asked],
            text=[PROMPT.format(question=e.question) for e in asked],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        return {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in batch.items()}

    def _run(self, methods: Chain, asked: Set) -> Sheet:
        parts = []
        started = time.perf_counter()
        for round_ in asked.rounds:
            for gauge in _gauges(methods):
                gauge.log.clear()
            parts.append(self._answer(methods, asked, round_))
        return replace(Sheet.join(parts), seconds=time.perf_counter() - started)

    def _answer(self, methods: Chain, asked: Set, round_: Round) -> Sheet:
        inputs = asked.encoded.inputs | round_.inputs
        width = inputs["input_ids"].shape[1]
        longest = (
            max(len(self._ids(e.answer or "")) for e in round_.examples) + 1
        )  # and the end of the answer
        with ExitStack() as stack, torch.inference_mode():
            run = (
                stack.enter_context(reduced(self.model, methods, encoded=asked.encoded)) if methods else None
            )
            ids = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        answers = self.processor.batch_decode(ids[:, width:], skip_special_tokens=True)
        n = asked.objects.shape[1]
        text = round_.inputs["attention_mask"].sum(1).cpu().numpy() - n
        kept, counts = self._kept(run, len(answers), n, text)
        return Sheet(
            correct=np.array(
                [float(exact_match(a, e.answer or "")) for a, e in zip(answers, round_.examples, strict=True)]
            ),
            objects=_recall(kept, asked.objects),
            asked=_recall(kept, round_.asked),
            counts=counts,
            text=text.astype(np.float64),
            seeds=np.full(len(answers), asked.seed),
            kinds=tuple(e.kind for e in round_.examples),
            pictures=tuple(e.picture for e in round_.examples),
            answers=tuple(a.strip() for a in answers),
            readings={name: values.numpy() for g in _gauges(methods) for name, values in g.log},
        )

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _kept(
        self, run: Session | None, rows: int, n: int, text: Int[np.ndarray, " rows"]
    ) -> tuple[Bool[np.ndarray, "rows n"], Float[np.ndarray, "rows layers"]]:
        """Which patches reach the last layer, and how many tokens each layer has."""
        layers = len(self.host.layers)
        if run is None:
            return np.ones((rows, n), dtype=bool), np.full((rows, layers), float(n))
        kept = torch.stack([item.kept_at(layers - 1) for item in run.trace]).numpy()
        return kept, (run.lengths.numpy() - text[:, None]).astype(np.float64)


def _gauges(methods: Sequence[Reducer]) -> list[Gauge]:
    return [m for m in methods if isinstance(m, Gauge)]


def _patches(
    boxes: Sequence[tuple[Box, ...]], asked: Sequence[Example], grid: tuple[int, int]
) -> Bool[np.ndarray, "pictures n"]:
    return np.stack(
        [
            region_mask(b, (e.image.height, e.image.width), grid).reshape(-1)
            for b, e in zip(boxes, asked, strict=True)
        ]
    )


def _recall(
    kept: Bool[np.ndarray, "rows n"], wanted: Bool[np.ndarray, "rows n"]
) -> Float[np.ndarray, " rows"]:
    """Share of the wanted patches that are kept; NaN where none is wanted."""
    total = wanted.sum(1)
    return np.where(total > 0, (kept & wanted).sum(1) / np.maximum(total, 1), np.nan)
