"""The run of a comparison: every question under every arm, each failure its own, every result on disk at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tokenry.bench import environment
from tokenry.bench.reducers import measure
from tokenry.bench.reducers.arms import Arm
from tokenry.bench.reducers.measure import Batch, Prompt
from tokenry.bench.reducers.overlay import encode_picture
from tokenry.bench.reducers.results import EVERY_ARM, ArmKey, Failure, Picture, Refusal, ResultsWriter, digest
from tokenry.data.questions.examples import Example
from tokenry.data.questions.metrics import Metric
from tokenry.hosts import Encoded
from tokenry.hosts.wrappers import device_of, synchronise
from tokenry.tokens import TokenryError, UnsupportedError

_LONGEST_REASON = 500
T = TypeVar("T")
Pictures: TypeAlias = tuple[tuple[str, str], ...]
"""Names and fingerprints of what a question is about."""


def pictures_of(example: Example) -> Pictures:
    """What two questions share that are about the same pictures."""
    return tuple((picture.name, picture.fingerprint) for picture in example.pictures)


@dataclass(frozen=True)
class Problem:
    """What went wrong, without the frames (and their tensors) in which it did.

    Attributes:
        error: class of the exception.
        reason: what it says, on one line; for an error that is not tokenry's after the name of its class.
        refusal: whether the model refused an arm for good.
    """

    error: str
    reason: str
    refusal: bool

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """What an exception comes to. That memory ran out is said without the figures, which differ every time."""
        name, reason = type(error).__name__, " ".join(str(error).split())
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in reason:
            reason = "Out of memory: smaller pictures, batches or budgets need less."
        elif not isinstance(error, TokenryError):
            reason = f"{name}: {reason}" if reason else name
        reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."
        return cls(name, reason, isinstance(error, UnsupportedError))


@dataclass(frozen=True)
class _Shared:
    """A picture as encoded for its questions, and the arms whose methods find in it what they read."""

    pictures: Pictures
    arms: frozenset[ArmKey]
    encoded: Encoded


@dataclass
class Task:
    """One run through examples and arms.

    An error belongs to the question, or to the arm on that question: it is written down, and the run goes on. Only a
    results file that cannot be written, a device that has stopped working and the user end it. Questions that fail
    together are put again one at a time, so that those that are well have their answers.

    Attributes:
        model, processor: what is asked.
        arms: what is compared; those that the model refuses are taken out.
        setting: digest of the circumstances.
        writer: the results file.
        metric, max_new_tokens, batch_size: as in `compare`.
        done: keys of results that the file holds.
        shown: names of the examples whose pictures and traces a report shows.
    """

    model: Any
    processor: Any
    arms: tuple[Arm, ...]
    setting: str
    writer: ResultsWriter
    metric: Metric
    max_new_tokens: int
    batch_size: int
    done: frozenset[str]
    shown: frozenset[str]
    _warm: set[ArmKey] = field(default_factory=set)
    _shared: _Shared | None = None
    _order: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    _advance: Callable[[int], None] = lambda answers: None
    _warned: bool = False

    def run(self, examples: Sequence[Example], progress: bool) -> None:
        """Measure what is not yet known.

        Raises:
            InputError: the results file cannot be written any more.
            UnsupportedError: the model cannot be run even on all of its tokens.
            TokenryError: the device no longer works.
        """
        with _progress(not progress) as (bar, shown_as):
            self._advance = lambda answers: bar.advance(shown_as, answers)
            for first in range(0, len(examples), self.batch_size):
                self._ask(examples[first : first + self.batch_size])
                past, arms = min(first + self.batch_size, len(examples)), len(self.arms)
                bar.update(shown_as, completed=past * arms, total=len(examples) * arms)

    def key(self, arm: Arm, prompt: Prompt) -> str:
        """What identifies a result: everything that it depends on."""
        foreign = environment.foreign_code(arm.methods)
        return digest(self.setting, arm.config, foreign, prompt.item, prompt.digest)

    def _ask(self, examples: Sequence[Example]) -> None:
        """Put questions under all arms that have not answered them. Their pictures are open until this returns."""
        if self._shared is not None and self._shared.pictures != pictures_of(examples[0]):
            self._shared = None
        prompts = []
        for example in examples:
            made = self._attempt(lambda one=example: Prompt.of(self.model, self.processor, one))  # type: ignore[misc]
            if isinstance(made, Problem):
                self._failed(example, EVERY_ARM, made)
            else:
                prompts.append(made)
        pending = [arm for arm in self.arms if any(self.key(arm, p) not in self.done for p in prompts)]
        if pending:
            self._show(prompts)
            self._put(prompts, pending)

    def _put(self, prompts: Sequence[Prompt], arms: Sequence[Arm]) -> None:
        """Put questions in one pass under each of the arms, in an order drawn anew."""
        batch = self._attempt(lambda: Batch.of(self.model, self.processor, prompts))
        if isinstance(batch, Problem):
            return self._put_apart(prompts, arms, batch)
        arms = [arm for arm in arms if self._warmed(arm, batch)]
        if not arms:
            return None
        encoded = self._attempt(lambda: self._encode(batch, arms))
        if isinstance(encoded, Problem):
            return self._put_apart(prompts, arms, encoded)
        for i in self._order.permutation(len(arms)):
            self._measure(arms[i], batch, encoded)
        return None

    def _put_apart(self, prompts: Sequence[Prompt], arms: Sequence[Arm], problem: Problem) -> None:
        """What failed together is put again one question at a time, then one arm; what fails alone is a failure."""
        if len(prompts) == 1:
            if len(arms) == 1:
                return self._failed(prompts[0].example, _key(arms[0]), problem)
            for arm in arms:
                self._put(prompts, [arm])
            return None
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(prompts)} questions could not be put in one pass, and are put one at a time: {problem.reason}",
                stacklevel=2,
            )
        for prompt in prompts:
            self._put([prompt], arms)
        return None

    def _warmed(self, arm: Arm, batch: Batch) -> bool:
        """Let an arm answer once before it is measured; whether it can be.

        An arm that the model does not support is written down and left out from here on.
        """
        if arm not in self.arms or _key(arm) in self._warm:
            return arm in self.arms
        trial = self._attempt(
            lambda: measure.answer(
                self.model,
                self.processor,
                batch,
                measure.encode(self.model, batch, arm.methods),
                arm,
                max_new_tokens=2,
            )
        )
        if not isinstance(trial, Problem):
            self._warm.add(_key(arm))
            return True
        if not trial.refusal or len(batch.prompts) > 1:
            self._put_apart(batch.prompts, [arm], trial)
        elif not arm.methods:
            raise UnsupportedError(trial.reason)
        else:
            self.writer.append(Refusal(self.setting, arm.method, arm.budget, trial.reason))
            self.arms = tuple(a for a in self.arms if (a.method, a.budget) != (arm.method, arm.budget))
        return False

    def _encode(self, batch: Batch, arms: Sequence[Arm]) -> Encoded:
        """The vision side for all of these arms: of one picture once for all questions about it."""
        pictures, wanted = pictures_of(batch.prompts[0].example), {_key(arm) for arm in arms}
        alone = len(batch.prompts) == 1
        if alone and (known := self._shared) and known.pictures == pictures and wanted <= known.arms:
            return known.encoded
        encoded = measure.encode(self.model, batch, [method for arm in arms for method in arm.methods])
        if alone:
            self._shared = _Shared(pictures, frozenset(wanted), encoded)
        return encoded

    def _measure(self, arm: Arm, batch: Batch, encoded: Encoded) -> None:
        """One arm's answers, each written as soon as it is scored; those that are known already are not doubled."""
        answers = self._attempt(
            lambda: measure.answer(
                self.model, self.processor, batch, encoded, arm, max_new_tokens=self.max_new_tokens
            )
        )
        if isinstance(answers, Problem):
            return self._put_apart(batch.prompts, [arm], answers)
        for prompt, found in zip(batch.prompts, answers, strict=True):
            key = self.key(arm, prompt)
            line = self._attempt(
                lambda prompt=prompt, found=found, key=key: measure.to_result(  # type: ignore[misc]
                    found,
                    arm,
                    prompt,
                    encoded,
                    rows=len(batch.prompts),
                    setting=self.setting,
                    key=key,
                    metric=self.metric,
                    shown=prompt.example.id in self.shown,
                )
            )
            if isinstance(line, Problem):
                self._failed(prompt.example, _key(arm), line)
            elif key not in self.done:
                self.writer.append(line)
        self._advance(len(answers))
        return None

    def _failed(self, example: Example, arm: ArmKey, problem: Problem) -> None:
        item, picture = measure.item_digest(example), example.picture
        self.writer.append(
            Failure(
                self.setting, *arm, item, example.id, picture, example.question, problem.error, problem.reason
            )
        )

    def _show(self, prompts: Sequence[Prompt]) -> None:
        """Keep the pictures that a report shows; one that cannot be drawn costs no answer."""
        for prompt in prompts:
            if prompt.example.id not in self.shown or not prompt.images:
                continue
            line = self._attempt(lambda prompt=prompt: self._picture(prompt))  # type: ignore[misc]
            if isinstance(line, Picture):
                self.writer.append(line)
            else:
                warnings.warn(f"No report shows {prompt.example.picture!a}: {line.reason}", stacklevel=2)

    def _picture(self, prompt: Prompt) -> Picture:
        example, (width, height) = prompt.example, prompt.images[0].size
        boxes = [[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in example.regions]
        data = encode_picture(measure.as_seen(self.processor, prompt))
        return Picture(self.setting, example.picture, data, {example.id: boxes})

    def _attempt(self, run: Callable[[], T]) -> T | Problem:
        """What a step gives, or what went wrong in it.

        Raises:
            TokenryError: the device no longer works, so that whatever follows would fail for no reason of its own.
        """
        try:
            return run()
        except Exception as error:
            problem = Problem.of(error)
        # Only here the exception is gone, and with it what its frames held.
        try:
            synchronise(self.model)
            if device_of(self.model).type == "cuda":
                torch.cuda.empty_cache()
        except RuntimeError as error:
            raise TokenryError(
                f"{device_of(self.model)} no longer works: {problem.reason} What was measured before is kept; start "
                "again."
            ) from error
        return problem


def _key(arm: Arm) -> ArmKey:
    return arm.method, arm.budget, arm.seed


@contextmanager
def _progress(silent: bool) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=silent) as bar, torch.inference_mode():
        yield bar, bar.add_task("comparing")
