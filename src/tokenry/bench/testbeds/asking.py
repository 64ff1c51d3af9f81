"""Putting a test bed's questions to its model, every way that something is to be learnt from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path

from tokenry.bench.lines import digest
from tokenry.bench.progress import progress_bar
from tokenry.bench.reducers.measure import item_digest
from tokenry.bench.reproduce.vqa.cached import CachedAnswers
from tokenry.bench.reproduce.vqa.lab import Chain
from tokenry.bench.reproduce.vqa.predictions import Predictions
from tokenry.bench.reproduce.vqa.question_sets import QuestionSet, Showing
from tokenry.bench.testbeds import controls, probing, showing
from tokenry.bench.testbeds.bed import Bed

AS_IT_IS = Showing()


@dataclass(frozen=True)
class BedArm:
    """A way of asking.

    Attributes:
        name: what it is called in results.
        chains: methods in the order in which they act; of several chains the answers are averaged.
        showing: how pictures are shown.
    """

    name: str
    chains: tuple[Chain, ...] = ((),)
    showing: Showing = AS_IT_IS


@dataclass(eq=False)
class BedLab:
    """A test bed's questions, put to its model under every arm; what was answered is kept.

    Pictures are encoded once for all arms that show them alike.

    Attributes:
        bed: the model and its questions.
        cache: folder where answers are kept, so that an interrupted run goes on where it stopped; None keeps them in
            memory.
        progress: whether to show progress on stderr.
    """

    bed: Bed
    cache: Path | None = None
    progress: bool = False

    @cached_property
    def _answers(self) -> CachedAnswers:
        code = (controls, probing, showing)
        return CachedAnswers(self.bed.model, self.bed.processor, self.cache, code)

    @cached_property
    def _identities(self) -> list[str]:
        """What tells each batch of questions from every other."""
        return [
            digest(str(self.bed.template), [item_digest(e) for group in batch for e in group])
            for batch in self.bed.batches
        ]

    def ask(self, arms: Sequence[BedArm], label: str = "asking") -> dict[str, Predictions]:
        """Put all questions under every arm; answers are in the same order under each.

        Args:
            arms: ways of asking, by their names.
            label: what the progress display says.
        """
        shown: dict[Showing, list[BedArm]] = defaultdict(list)
        for arm in arms:
            shown[arm.showing].append(arm)
        parts: dict[tuple[str, int], list[Predictions]] = defaultdict(list)
        total = sum(len(arm.chains) for arm in arms) * len(self.bed.batches)
        with ExitStack() as stack:
            bar, done = stack.enter_context(progress_bar(label, shown=self.progress)), 0
            for way, asking in shown.items():
                for number in range(len(self.bed.batches)):
                    # Encoded when the first arm needs it, and let go of after the last.
                    made = cache(partial(self._set, number, way))
                    for arm in asking:
                        for i, chain in enumerate(arm.chains):
                            bar.at(done, total)
                            identity = [self._identities[number], type(way).__name__, asdict(way)]
                            parts[arm.name, i].append(self._answers.answer(chain, identity, made))
                            done += 1
            bar.at(total, total)
        whole = {
            arm.name: [Predictions.join(parts[arm.name, i]) for i in range(len(arm.chains))] for arm in arms
        }
        return {name: runs[0] if len(runs) == 1 else Predictions.mean(runs) for name, runs in whole.items()}

    def _set(self, number: int, way: Showing) -> QuestionSet:
        bed = self.bed
        groups = bed.batches[number]
        return QuestionSet.of(bed.model, bed.processor, groups, template=bed.template, showing=way)
