"""Interleaved measuring: the one loop in which subjects take turns on every item, each error its own item's.

A machine that slows down must slow all subjects alike. So each item (or batch of items) goes through all of them
before the next one's turn comes, in an order drawn anew each time, in one process. The order depends on the item's
place alone: a comparison that goes on where it was stopped draws the same.

What is known, and where results go, is the record's business: `bench.reducers` and `bench.decoders` keep JSON lines and
go on where they stopped, `Outputs` keeps what was made in memory.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from tokenry.bench.progress import Bar, progress_bar
from tokenry.bench.task import Batch, BatchedTask, Item, Output, Singly, Subject, SubjectT_contra, Task
from tokenry.tokens import TokenryError, UnsupportedError

_LONGEST_REASON = 500
T = TypeVar("T")
ItemT_contra = TypeVar("ItemT_contra", contravariant=True)
BatchT_contra = TypeVar("BatchT_contra", contravariant=True)
OutputT_contra = TypeVar("OutputT_contra", contravariant=True)


@dataclass(frozen=True)
class Problem:
    """What went wrong, without the frames (and their tensors) in which it did.

    Attributes:
        error: class of the exception.
        reason: what it says, on one line; for an error that is not tokenry's after the name of its class.
        refusal: whether a subject cannot do this at all.
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


def attempt(run: Callable[[], T], task: BatchedTask[Any, Any, Any, Any]) -> T | Problem:
    """What a step of a task gives, or what went wrong in it, if the task tolerates that."""
    try:
        return run()
    except task.tolerated as error:
        problem = Problem.of(error)
    # Only here the exception is gone, and with it what its frames held.
    task.settle(problem.reason)
    return problem


@runtime_checkable
class ComparisonRecord(Protocol[SubjectT_contra, ItemT_contra, BatchT_contra, OutputT_contra]):
    """What is known of a comparison, and where what is measured goes."""

    def known(self, subject: SubjectT_contra, opened: BatchT_contra) -> bool:
        """Whether this has been measured before, and need not be again."""

    def admits(self, subject: SubjectT_contra) -> bool:
        """Whether a subject takes part: it does until it is refused."""

    def begin(self, opened: Sequence[BatchT_contra]) -> None:
        """Items are about to be measured."""

    def line(
        self, subject: SubjectT_contra, item: ItemT_contra, output: OutputT_contra, score: float | None
    ) -> Any:
        """What is to be kept of an output; an error in this belongs to the item."""

    def append(self, line: Any) -> None:
        """Keep it."""

    def failed(self, item: ItemT_contra, subject: SubjectT_contra | None, problem: Problem) -> None:
        """A subject failed on an item; without a subject the item itself failed, before any subject's turn."""

    def refused(self, subject: SubjectT_contra, problem: Problem) -> None:
        """A subject cannot do this at all.

        Raises:
            TokenryError: without it there is nothing to compare with.
        """


@dataclass
class Interleaved(Generic[Subject, Item, Batch, Output]):
    """One run of subjects through the items of a task.

    An error that the task tolerates belongs to its item, or to the subject on that item: it is recorded, and the run
    goes on. Items that fail together are put again one at a time, then to one subject at a time, so that those that are
    well are measured.

    Attributes:
        task: what is run.
        subjects: what is compared; those that are refused are taken out.
        record: what is known, and where results go.
        batch_size: items that go through together.
        seed: of the orders in which subjects take turns.
    """

    task: BatchedTask[Subject, Item, Batch, Output]
    subjects: Sequence[Subject]
    record: ComparisonRecord[Subject, Item, Batch, Output]
    batch_size: int = 1
    seed: int = 0
    _warm: list[Subject] = field(default_factory=list)
    _warned: bool = False

    def run(self, items: Sequence[Item], *, progress: bool = False) -> None:
        """Measure what is not yet known.

        Raises:
            Exception: what the task does not tolerate, and what the record raises.
        """
        with progress_bar(self.task.name, shown=progress) as bar:
            bar.at(0, len(items) * len(self.subjects))
            for first in range(0, len(items), self.batch_size):
                past = min(first + self.batch_size, len(items))
                _Turn(self, random.Random(f"{self.seed} {first}"), bar).ask(items[first:past])
                bar.at(past * len(self.subjects), len(items) * len(self.subjects))

    def warm(self, subject: Subject, batch: Batch) -> Problem | None:
        """Warm a subject up unless it is warm; what went wrong."""
        if any(one is subject for one in self._warm):
            return None
        trial = attempt(partial(self.task.warm_up, subject, batch), self.task)
        if trial is None:
            self._warm.append(subject)
        return trial

    def refuse(self, subject: Subject, problem: Problem) -> None:
        """Leave a subject out from here on."""
        self.record.refused(subject, problem)
        self.subjects = [one for one in self.subjects if self.record.admits(one)]

    def warn(self, items: int, problem: Problem) -> None:
        """Say once that items cannot go through together."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{items} items could not be put in one pass, and are put one at a time: {problem.reason}",
                stacklevel=2,
            )


@dataclass(frozen=True)
class _Turn(Generic[Subject, Item, Batch, Output]):
    """The turn of a batch of items: through all subjects, in an order of its own."""

    whole: Interleaved[Subject, Item, Batch, Output]
    draw: random.Random
    bar: Bar

    def ask(self, items: Sequence[Item]) -> None:
        """Put items to all subjects that they have not been put to. They are open until this returns."""
        task, record = self.whole.task, self.whole.record
        opened: list[tuple[Item, Batch]] = []
        for item in items:
            made = attempt(partial(task.open, item), task)
            if isinstance(made, Problem):
                record.failed(item, None, made)
            else:
                opened.append((item, made))
        pending = [s for s in self.whole.subjects if not all(record.known(s, one) for _, one in opened)]
        if pending:
            record.begin([one for _, one in opened])
            self._put(opened, pending)

    def _put(self, items: Sequence[tuple[Item, Batch]], subjects: Sequence[Subject]) -> None:
        """Put items through together, to each of the subjects."""
        task = self.whole.task
        batch = attempt(partial(task.join, [one for _, one in items]), task)
        if isinstance(batch, Problem):
            return self._put_apart(items, subjects, batch)
        subjects = [one for one in subjects if self._warmed(one, items, batch)]
        if not subjects:
            return None
        ready = attempt(partial(task.prepare, batch, subjects), task)
        if isinstance(ready, Problem):
            return self._put_apart(items, subjects, ready)
        for subject in self.draw.sample(subjects, len(subjects)):
            self._measure(subject, items, ready)
        return None

    def _put_apart(
        self, items: Sequence[tuple[Item, Batch]], subjects: Sequence[Subject], problem: Problem
    ) -> None:
        """What failed together is put again one item at a time, then to one subject; what fails alone is a failure."""
        if len(items) > 1:
            self.whole.warn(len(items), problem)
            for one in items:
                self._put([one], subjects)
        elif len(subjects) > 1:
            for subject in subjects:
                self._put(items, [subject])
        else:
            self.whole.record.failed(items[0][0], subjects[0], problem)

    def _warmed(self, subject: Subject, items: Sequence[tuple[Item, Batch]], batch: Batch) -> bool:
        """Warm a subject up before it is measured; whether it can be."""
        if not self.whole.record.admits(subject):
            return False
        problem = self.whole.warm(subject, batch)
        if problem is None:
            return True
        if problem.refusal and len(items) == 1:
            self.whole.refuse(subject, problem)
        else:
            self._put_apart(items, [subject], problem)
        return False

    def _measure(self, subject: Subject, items: Sequence[tuple[Item, Batch]], ready: Batch) -> None:
        """A subject's outputs, each kept as soon as it is scored; those that are known already are not doubled."""
        task, record = self.whole.task, self.whole.record
        outputs = attempt(partial(task.run, subject, ready), task)
        if isinstance(outputs, Problem):
            return self._put_apart(items, [subject], outputs)
        for (item, opened), output in zip(items, outputs, strict=True):
            line = attempt(partial(self._line, subject, item, output), task)
            if isinstance(line, Problem):
                record.failed(item, subject, line)
            elif not record.known(subject, opened):
                record.append(line)
        self.bar.advance(len(outputs))
        return None

    def _line(self, subject: Subject, item: Item, output: Output) -> Any:
        """An output with its score, as the record keeps it."""
        return self.whole.record.line(subject, item, output, self.whole.task.score(output, item))


@dataclass(frozen=True)
class Outputs(ComparisonRecord[str, Item, tuple[Item, ...], Output]):
    """A record in memory: what each subject made of each item, and how good that is.

    Attributes:
        made: for each subject (item, output, score), in the order of the items.
        failures: (item, subject, what went wrong); the subject is None where the item itself failed.
        refusals: subjects that cannot do this, and why.
    """

    made: dict[str, list[tuple[Item, Output, float | None]]] = field(default_factory=dict)
    failures: list[tuple[Item, str | None, Problem]] = field(default_factory=list)
    refusals: dict[str, Problem] = field(default_factory=dict)

    def known(self, subject: str, opened: tuple[Item, ...]) -> bool:
        """Nothing is known beforehand."""
        return False

    def admits(self, subject: str) -> bool:
        """Whether a subject has not been refused."""
        return subject not in self.refusals

    def begin(self, opened: Sequence[tuple[Item, ...]]) -> None:
        """Nothing is kept of items but what becomes of them."""

    def line(
        self, subject: str, item: Item, output: Output, score: float | None
    ) -> tuple[str, tuple[Item, Output, float | None]]:
        """The output with all that it belongs to."""
        return subject, (item, output, score)

    def append(self, line: tuple[str, tuple[Item, Output, float | None]]) -> None:
        """Keep it."""
        self.made.setdefault(line[0], []).append(line[1])

    def failed(self, item: Item, subject: str | None, problem: Problem) -> None:
        """Keep a failure."""
        self.failures.append((item, subject, problem))

    def refused(self, subject: str, problem: Problem) -> None:
        """Keep a refusal."""
        self.refusals[subject] = problem

    def scores(self, subject: str) -> list[float]:
        """A subject's scores, where there are any, in the order of the items."""
        return [score for _, _, score in self.made.get(subject, []) if score is not None]


def measure(
    task: Task[str, Item, Output],
    subjects: Sequence[str],
    *,
    limit: int | None = None,
    tolerated: tuple[type[Exception], ...] = (Exception,),
    progress: bool = False,
) -> Outputs[Item, Output]:
    """Run a task that shares nothing between its subjects, and keep everything in memory.

    Args:
        task: what is compared on; it knows its subjects by name.
        subjects: their names.
        limit: only the first so many items.
        tolerated: errors that belong to an item; all others end the comparison.
        progress: whether to show a progress bar on stderr.
    """
    record: Outputs[Item, Output] = Outputs()
    Interleaved(Singly(task, tolerated), subjects, record).run(task.items(limit), progress=progress)
    return record
