"""The one measuring loop: turns, errors, refusals, what is known; over a task of a few lines."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tokenry.bench.run import ComparisonRecord, Interleaved, Outputs, Problem, measure
from tokenry.bench.task import BatchedTask, Task
from tokenry.tokens import InputError, TokenryError, UnsupportedError


class Doubling(Task[str, int, int]):
    """Subjects are operators on numbers."""

    name, metric, higher_is_better = "doubling", "error", False

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []

    def items(self, limit: int | None = None) -> Sequence[int]:
        return [1, 2, 3, 4][:limit]

    def run(self, subject: str, item: int) -> int:
        self.ran.append((subject, item))
        if (subject, item) == ("add", 3):
            raise ZeroDivisionError("not this one")
        return {"add": item + item, "square": item * item, "shift": item << 1}[subject]

    def score(self, output: int, item: int) -> float | None:
        return None if item == 4 else abs(output - 2 * item)


def test_a_task_of_six_members_is_compared() -> None:
    found = measure(Doubling(), ["square", "shift"])
    assert found.scores("square") == [1, 0, 3]
    assert found.scores("shift") == [0, 0, 0]
    assert [output for _, output, _ in found.made["square"]] == [1, 4, 9, 16]
    assert measure(Doubling(), ["shift"], limit=2).made == {"shift": [(1, 2, 0), (2, 4, 0)]}


def test_subjects_take_turns_on_every_item_in_orders_that_come_again() -> None:
    first, again = Doubling(), Doubling()
    names = ["square", "shift", "other"]
    for task in (first, again):
        task.items = lambda limit=None: list(range(8))  # type: ignore[method-assign]
        found = measure(task, names)
        assert set(found.made) == {"square", "shift"}
        assert {(item, subject) for item, subject, _ in found.failures} == {(i, "other") for i in range(8)}
    assert first.ran == again.ran
    turns = [[subject for subject, item in first.ran if item == wanted] for wanted in range(8)]
    assert [item for _, item in first.ran] == sorted(item for _, item in first.ran)
    assert all(sorted(turn) == sorted(names) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_an_error_is_its_items_unless_nothing_is_tolerated() -> None:
    found = measure(Doubling(), ["add", "shift"])
    ((item, subject, problem),) = found.failures
    assert (item, subject, problem.reason) == (3, "add", "ZeroDivisionError: not this one")
    assert [item for item, _, _ in found.made["add"]] == [1, 2, 4]
    assert len(found.made["shift"]) == 4
    with pytest.raises(ZeroDivisionError):
        measure(Doubling(), ["add"], tolerated=())


@dataclass
class Batches(BatchedTask[str, str, str, str]):
    """Words in batches; some words, subjects and pairs of them misbehave."""

    name, metric, higher_is_better, tolerated = "words", "length", True, (Exception,)
    opened: list[str] = field(default_factory=list)
    passes: list[tuple[str, str]] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)

    def items(self, limit: int | None = None) -> Sequence[str]:
        return ["a", "b", "unreadable", "c", "long", "d"][:limit]

    def open(self, item: str) -> str:
        self.opened.append(item)
        if item == "unreadable":
            raise OSError("no such word")
        return item

    def join(self, opened: Sequence[str]) -> str:
        return " ".join(opened)

    def warm_up(self, subject: str, batch: str) -> None:
        if subject == "unable":
            raise UnsupportedError("It cannot read.")

    def prepare(self, batch: str, subjects: Sequence[str]) -> str:
        return batch

    def run(self, subject: str, batch: str) -> list[str]:
        self.passes.append((subject, batch))
        if subject == "picky" and "long" in batch:
            raise MemoryError
        return [word.upper() for word in batch.split()]

    def score(self, output: str, item: str) -> float | None:
        return len(output)

    def settle(self, reason: str) -> None:
        self.settled.append(reason)
        if "broken" in reason:
            raise TokenryError("The device no longer works.")


@dataclass
class Kept(ComparisonRecord[str, str, str, str]):
    done: set[tuple[str, str]] = field(default_factory=set)
    lines: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str | None, str]] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def known(self, subject: str, opened: str) -> bool:
        return (subject, opened) in self.done

    def admits(self, subject: str) -> bool:
        return subject not in self.refusals

    def begin(self, opened: Sequence[str]) -> None:
        pass

    def line(self, subject: str, item: str, output: str, score: float | None) -> Any:
        assert output == item.upper()
        return subject, item

    def append(self, line: Any) -> None:
        self.lines.append(line)

    def failed(self, item: str, subject: str | None, problem: Problem) -> None:
        self.failures.append((item, subject, problem.reason))

    def refused(self, subject: str, problem: Problem) -> None:
        self.refusals.append(subject)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_what_fails_together_is_put_again_alone(size: int) -> None:
    task, record = Batches(), Kept()
    loop = Interleaved(task, ["well", "picky", "unable"], record, size)
    if size > 1:
        with pytest.warns(UserWarning, match="could not be put in one pass") as told:
            loop.run(task.items())
        assert len(told) == 1
    else:
        loop.run(task.items())
    words = ["a", "b", "c", "long", "d"]
    wanted = [(s, w) for s in ("well", "picky") for w in words if (s, w) != ("picky", "long")]
    assert sorted(record.lines) == sorted(wanted)
    memory = "Out of memory: smaller pictures, batches or budgets need less."
    assert sorted(record.failures, key=str) == sorted(
        [("unreadable", None, "OSError: no such word"), ("long", "picky", memory)], key=str
    )
    assert record.refusals == ["unable"]
    assert list(loop.subjects) == ["well", "picky"]
    assert task.opened == list(task.items())
    assert len(task.settled) >= 3


def test_what_is_known_is_not_measured_again() -> None:
    task, record = Batches(), Kept()
    whole = {(s, w) for s in ("well", "other") for w in ("a", "b", "c", "long", "d")}
    record.done = whole - {("other", "c")}
    Interleaved(task, ["well", "other"], record).run(task.items())
    assert task.passes == [("other", "c")]
    assert record.lines == [("other", "c")]
    task, record = Batches(), Kept(done=whole - {("other", "b")})
    Interleaved(task, ["well", "other"], record, 2).run(task.items(2))
    assert task.passes == [("other", "a b")]
    assert record.lines == [("other", "b")]


def test_what_no_item_is_to_blame_for_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    task, record = Batches(), Kept()
    monkeypatch.setattr(task, "prepare", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(TokenryError, match="no longer works"):
        Interleaved(task, ["well"], record).run(["a"])
    assert not record.failures
    for error in (KeyboardInterrupt, InputError("The disk is full.")):
        monkeypatch.setattr(record, "append", lambda line, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(error if isinstance(error, type) else type(error)):
            Interleaved(Batches(), ["well"], record).run(["a"])


def test_a_failure_holds_no_frames() -> None:
    """What a step held (pictures, tensors) is let go of before the next one."""
    found = measure(Doubling(), ["add"])
    problem = found.failures[0][2]
    assert (problem.error, problem.refusal) == ("ZeroDivisionError", False)
    assert not hasattr(problem, "__traceback__")
    long = Problem.of(ValueError("x" * 2000))
    assert long.reason.endswith("x ...")
    assert len(long.reason) < 600


def test_orders_differ_with_the_seed() -> None:
    orders = []
    for seed in range(4):
        task = Batches()
        Interleaved(task, list("uvwxyz"), Kept(), seed=seed).run(["a"])
        orders.append([subject for subject, _ in task.passes])
    assert len({tuple(one) for one in orders}) > 1
    assert orders[0] == random.Random("0 0").sample(list("uvwxyz"), 6)


def test_outputs_of_a_subject_that_ran_on_nothing() -> None:
    assert Outputs().scores("nobody") == []
