"""Questions about pictures as a task, with methods as its subjects, and the results file as its record."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch

from tokenry.bench import environment
from tokenry.bench.lines import ResultsWriter, digest
from tokenry.bench.reducers import measure
from tokenry.bench.reducers.arms import MethodArm
from tokenry.bench.reducers.measure import Batch, TimedAnswer, VisualPrompt
from tokenry.bench.reducers.overlay import encode_picture
from tokenry.bench.reducers.prompts import Template
from tokenry.bench.reducers.results import EVERY_ARM, ArmKey, ArmResult, Failure, Line, Refusal, StoredPicture
from tokenry.bench.run import ComparisonRecord, Problem, attempt
from tokenry.bench.task import BatchedTask
from tokenry.data.questions.examples import Example
from tokenry.data.questions.metrics import Metric
from tokenry.hosts import Encoded
from tokenry.hosts.wrappers import device_of, synchronise
from tokenry.tokens import InputError, TokenryError, UnsupportedError

Pictures: TypeAlias = tuple[tuple[str, str], ...]
"""Names and fingerprints of what a question is about."""


def pictures_of(example: Example) -> Pictures:
    """What two questions share that are about the same pictures."""
    return tuple((picture.name, picture.fingerprint) for picture in example.pictures)


@dataclass(frozen=True)
class AnswerInPass:
    """An answer, with the pass that it came from.

    Attributes:
        answer: what the model said, and what it took.
        prompt: what it was asked.
        encoded: the vision side of the pass.
        rows: questions in the pass.
    """

    answer: TimedAnswer
    prompt: VisualPrompt
    encoded: Encoded
    rows: int


@dataclass(frozen=True)
class _Shared:
    """A picture as encoded for its questions, and the arms whose methods find in it what they read."""

    pictures: Pictures
    arms: frozenset[ArmKey]
    encoded: Encoded


@dataclass
class VisualQuestions(BatchedTask[MethodArm, Example, Batch, AnswerInPass]):
    """Questions about pictures, put to one model under each of several arms.

    Only a device that has stopped working, and what is no `Exception` (the user), end it; every other error belongs to
    its question.

    Attributes:
        model, processor: what is asked.
        data: the questions.
        judge: how an answer is scored.
        template: how a question is put.
        max_new_tokens: longest answer.
    """

    name: ClassVar[str] = "comparing"  # type: ignore[misc]
    higher_is_better: ClassVar[bool] = True  # type: ignore[misc]
    tolerated: ClassVar[tuple[type[Exception], ...]] = (Exception,)  # type: ignore[misc]

    model: Any
    processor: Any
    data: Sequence[Example]
    judge: Metric
    template: Template
    max_new_tokens: int
    _shared: _Shared | None = None

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The judge's name."""
        return self.judge.name

    def items(self, limit: int | None = None) -> list[Example]:
        """The questions as the model is asked them, those about one picture next to each other.

        Raises:
            InputError: none, no examples, two of one name, or more choices than letters.
        """
        if limit is not None and limit < 1:
            raise InputError(f"A limit of {limit} examples leaves nothing to compare on.")
        if not isinstance(self.data, Sequence) or not all(isinstance(one, Example) for one in self.data):
            raise InputError(
                "The data of a comparison are a list of Examples, as tokenry.bench.load_data(...).examples is one; got "
                f"{type(self.data).__name__}."
            )
        chosen = list(self.data)[:limit]
        if not chosen:
            raise InputError("There is nothing to compare on: the data set is empty.")
        names = [e.id for e in chosen]
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise InputError(f"Examples need names of their own; {twice!r} occurs more than once.")
        first = {pictures: i for i, pictures in reversed(list(enumerate(map(pictures_of, chosen))))}
        return [self.template.apply(e) for e in sorted(chosen, key=lambda e: first[pictures_of(e)])]

    def open(self, item: Example) -> Batch:
        """A question with its pictures opened and gone through the processor."""
        if self._shared is not None and self._shared.pictures != pictures_of(item):
            self._shared = None
        return Batch.of(self.model, self.processor, [VisualPrompt.of(self.model, self.processor, item)])

    def join(self, opened: Sequence[Batch]) -> Batch:
        """Questions for one pass, rows padded on the left."""
        return Batch.of(self.model, self.processor, [prompt for one in opened for prompt in one.prompts])

    def warm_up(self, subject: MethodArm, batch: Batch) -> None:
        """Two tokens of an answer."""
        encoded = measure.encode(self.model, batch, subject.methods)
        measure.answer(self.model, self.processor, batch, encoded, subject, max_new_tokens=2)

    def prepare(self, batch: Batch, subjects: Sequence[MethodArm]) -> Batch:
        """The vision side for all of these arms: of one picture once for all questions about it."""
        pictures, wanted = pictures_of(batch.prompts[0].example), {key_of(arm) for arm in subjects}
        alone = len(batch.prompts) == 1
        if alone and (known := self._shared) and known.pictures == pictures and wanted <= known.arms:
            return replace(batch, encoded=known.encoded)
        encoded = measure.encode(self.model, batch, [method for arm in subjects for method in arm.methods])
        if alone:
            self._shared = _Shared(pictures, frozenset(wanted), encoded)
        return replace(batch, encoded=encoded)

    def run(self, subject: MethodArm, batch: Batch) -> list[AnswerInPass]:
        """The answers under an arm."""
        encoded = batch.encoded or measure.encode(self.model, batch, subject.methods)
        answers = measure.answer(
            self.model, self.processor, batch, encoded, subject, max_new_tokens=self.max_new_tokens
        )
        rows = len(batch.prompts)
        return [
            AnswerInPass(answer, prompt, encoded, rows)
            for answer, prompt in zip(answers, batch.prompts, strict=True)
        ]

    def score(self, output: AnswerInPass, item: Example) -> float | None:
        """By the judge; None where the example has no references."""
        return self.judge.score(output.answer.text, item) if item.references else None

    def settle(self, reason: str) -> None:
        """See that the device works, and let go of memory.

        Raises:
            TokenryError: the device no longer works, so that whatever follows would fail for no reason of its own.
        """
        try:
            synchronise(self.model)
            if device_of(self.model).type == "cuda":
                torch.cuda.empty_cache()
        except RuntimeError as error:
            raise TokenryError(
                f"{device_of(self.model)} no longer works: {reason} What was measured before is kept; start again."
            ) from error


@dataclass
class ResultsRecord(ComparisonRecord[MethodArm, Example, Batch, AnswerInPass]):
    """The results file of a comparison of arms.

    Attributes:
        task: what is run.
        setting: digest of the circumstances.
        writer: the file.
        done: keys of results that the file holds.
        shown: names of the examples whose pictures and traces a report shows.
    """

    task: VisualQuestions
    setting: str
    writer: ResultsWriter
    done: frozenset[str]
    shown: frozenset[str]
    _refused: set[tuple[str, str]] = field(default_factory=set)

    def key(self, arm: MethodArm, prompt: VisualPrompt) -> str:
        """What identifies a result: everything that it depends on."""
        foreign = environment.foreign_code(arm.methods)
        return digest(self.setting, arm.config, foreign, prompt.item, prompt.digest)

    def known(self, subject: MethodArm, opened: Batch) -> bool:
        """Whether the file holds the answers."""
        return all(self.key(subject, prompt) in self.done for prompt in opened.prompts)

    def admits(self, subject: MethodArm) -> bool:
        """Whether the model has not refused the arm, in any of its repetitions."""
        return (subject.method, subject.budget) not in self._refused

    def begin(self, opened: Sequence[Batch]) -> None:
        """Keep the pictures that a report shows; one that cannot be drawn costs no answer."""
        for prompt in (prompt for one in opened for prompt in one.prompts):
            if prompt.example.id not in self.shown or not prompt.images:
                continue
            line = attempt(partial(self._picture, prompt), self.task)
            if isinstance(line, StoredPicture):
                self.writer.append(line)
            else:
                warnings.warn(f"No report shows {prompt.example.picture!a}: {line.reason}", stacklevel=2)

    def line(self, subject: MethodArm, item: Example, output: AnswerInPass, score: float | None) -> ArmResult:
        """The result of a question under an arm."""
        return measure.to_result(
            output.answer,
            subject,
            output.prompt,
            output.encoded,
            rows=output.rows,
            setting=self.setting,
            key=self.key(subject, output.prompt),
            score=score,
            shown=item.id in self.shown,
        )

    def append(self, line: Line) -> None:
        """Write a line."""
        self.writer.append(line)

    def failed(self, item: Example, subject: MethodArm | None, problem: Problem) -> None:
        """Write a failure down; the next run tries it again."""
        arm = EVERY_ARM if subject is None else key_of(subject)
        name, picture, question = measure.item_digest(item), item.picture, item.question
        self.writer.append(
            Failure(self.setting, *arm, name, item.id, picture, question, problem.error, problem.reason)
        )

    def refused(self, subject: MethodArm, problem: Problem) -> None:
        """Write down that the model does not support an arm.

        Raises:
            UnsupportedError: it cannot be run even on all of its tokens.
        """
        if not subject.methods:
            raise UnsupportedError(problem.reason)
        self._refused.add((subject.method, subject.budget))
        self.writer.append(Refusal(self.setting, subject.method, subject.budget, problem.reason))

    def _picture(self, prompt: VisualPrompt) -> StoredPicture:
        example, (width, height) = prompt.example, prompt.images[0].size
        boxes = [[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in example.regions]
        data = encode_picture(measure.as_seen(self.task.processor, prompt))
        return StoredPicture(self.setting, example.picture, data, {example.id: boxes})


def key_of(arm: MethodArm) -> ArmKey:
    """Method, budget and seed."""
    return arm.method, arm.budget, arm.seed
