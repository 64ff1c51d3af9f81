"""What a comparison compares on: the protocols of an evaluation task, for one item at a time and for batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

Subject = TypeVar("Subject")
Item = TypeVar("Item")
Output = TypeVar("Output")
Batch = TypeVar("Batch")
SubjectT_contra = TypeVar("SubjectT_contra", contravariant=True)


@runtime_checkable
class Task(Protocol[SubjectT_contra, Item, Output]):
    """An evaluation task: items, what a subject (a model, a method, a codec) makes of one, and a score for it.

    This is all that has to be written for a new kind of comparison. `bench.run` does the rest: subjects take turns on
    every item, an error belongs to its item, and progress is shown.

    Attributes:
        name: of what is done, as the progress bar says it ("decoding").
        metric: what the score is called.
        higher_is_better: whether a larger score is the better one.
    """

    name: str
    metric: str
    higher_is_better: bool

    def items(self, limit: int | None = None) -> Sequence[Item]:
        """What subjects are compared on, in order; only the first so many of it."""

    def run(self, subject: SubjectT_contra, item: Item) -> Output:
        """What a subject makes of an item; what is timed is timed here."""

    def score(self, output: Output, item: Item) -> float | None:
        """How good that is; None where there is nothing to judge it by."""


@runtime_checkable
class BatchedTask(Protocol[SubjectT_contra, Item, Batch, Output]):
    """A task whose items go through several at a time, and whose subjects share work on them.

    An item is opened when its turn comes (a picture read from disk), and let go of afterwards. Opened items are joined
    to one batch; what is the same for all subjects (the vision encoder's pass) is prepared once; then each runs.

    Attributes:
        name, metric, higher_is_better: as of a `Task`.
        tolerated: errors that belong to an item, or to a subject on it; all others end the comparison.
    """

    name: str
    metric: str
    higher_is_better: bool
    tolerated: tuple[type[Exception], ...]

    def items(self, limit: int | None = None) -> Sequence[Item]:
        """What subjects are compared on, in order; only the first so many of it."""

    def open(self, item: Item) -> Batch:
        """An item, ready to be put to any subject, alone."""

    def join(self, opened: Sequence[Batch]) -> Batch:
        """Opened items as one batch; an item alone is joined too."""

    def warm_up(self, subject: SubjectT_contra, batch: Batch) -> None:
        """Let a subject do once, unmeasured, what happens only once.

        Raises:
            UnsupportedError: it cannot do this at all, and is left out from here on.
        """

    def prepare(self, batch: Batch, subjects: Sequence[SubjectT_contra]) -> Batch:
        """A batch with all that is done once for these subjects."""

    def run(self, subject: SubjectT_contra, batch: Batch) -> Sequence[Output]:
        """What a subject makes of a batch: one output for each of its items."""

    def score(self, output: Output, item: Item) -> float | None:
        """How good an output is; None where there is nothing to judge it by."""

    def settle(self, reason: str) -> None:
        """See that work can go on after an error that belonged to an item.

        Raises:
            TokenryError: it cannot: whatever follows would fail for no reason of its own.
        """


@dataclass(frozen=True)
class Singly(BatchedTask[Subject, Item, tuple[Item, ...], Output]):
    """A task run one item after another, with nothing shared between subjects.

    Attributes:
        task: what is run.
        tolerated: errors that belong to an item.
    """

    task: Task[Subject, Item, Output]
    tolerated: tuple[type[Exception], ...] = (Exception,)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.task.name

    @property
    def metric(self) -> str:  # type: ignore[override]
        """The task's."""
        return self.task.metric

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        """The task's."""
        return self.task.higher_is_better

    def items(self, limit: int | None = None) -> Sequence[Item]:
        """The task's."""
        return self.task.items(limit)

    def open(self, item: Item) -> tuple[Item, ...]:
        """The item as it is."""
        return (item,)

    def join(self, opened: Sequence[tuple[Item, ...]]) -> tuple[Item, ...]:
        """The items, one after another."""
        return tuple(item for one in opened for item in one)

    def warm_up(self, subject: Subject, batch: tuple[Item, ...]) -> None:
        """Nothing: a task that needs a warm-up does one itself."""

    def prepare(self, batch: tuple[Item, ...], subjects: Sequence[Subject]) -> tuple[Item, ...]:
        """Nothing is shared."""
        return batch

    def run(self, subject: Subject, batch: tuple[Item, ...]) -> list[Output]:
        """Each item by itself."""
        return [self.task.run(subject, item) for item in batch]

    def score(self, output: Output, item: Item) -> float | None:
        """The task's."""
        return self.task.score(output, item)

    def settle(self, reason: str) -> None:
        """Nothing is held that could be lost."""
