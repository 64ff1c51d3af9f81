"""The progress bar of a comparison, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Bar:
    """A line that says how much of the work is done, and how long the rest takes."""

    _progress: Progress
    _line: TaskID

    def advance(self, steps: int = 1) -> None:
        """So many more steps are done."""
        self._progress.advance(self._line, steps)

    def at(self, done: int, total: int) -> None:
        """So many of so many steps are done, whatever was counted before."""
        self._progress.update(self._line, completed=done, total=total)


@contextmanager
def progress_bar(doing: str, *, shown: bool) -> Iterator[Bar]:
    """A bar while something is done; it does nothing where it is not shown.

    Args:
        doing: what is done.
        shown: whether to show it.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        yield Bar(bar, bar.add_task(doing, total=None))
