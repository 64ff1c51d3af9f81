"""What the trainings of this room's models have in common: phases of answers, validation, and a run of all phases.

A model of this room first learns to see, and then to answer: questions packed behind pictures, on all of their tokens
and on some, with auxiliary losses whose weights go down to zero before the end (`tokenry.models.vlm.answering`).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from torch import Tensor, nn

from tokenry.models.vlm.answering import (
    Counting,
    Read,
    Seen,
    Shortening,
    answer_loss,
    drawn,
    exactly_answered,
    in_a_row,
    naming_loss,
    read,
    whole,
)
from tokenry.train.objective import Batch, Figures, Objective
from tokenry.train.optimisers import EVERYTHING
from tokenry.train.phases import Phase, phase_at, train_phases
from tokenry.train.settings import LoopSettings
from tokenry.train.trained import NOTES_FILE


@dataclass(frozen=True)
class AnswerSettings:
    """A phase in which answering is learnt.

    Attributes:
        batch: pictures a step.
        loop: schedule and optimiser.
        questions: of different kinds asked about each picture.
        drill: rounds of further questions that mention objects by name, the hardest to learn.
        naming_weight: of the loss by which the decoder must name, where a visual token stands, what it shows.
        fade: whether the weights of auxiliary losses go down to zero over the phase.
        shortening: how much of what is seen is taken away.
        learn: patterns of the names of the parameters that learn in such a phase.
    """

    learn: ClassVar[Sequence[str]] = EVERYTHING

    batch: int
    loop: LoopSettings
    questions: int = 7
    drill: int = 0
    naming_weight: float = 0.0
    fade: bool = False
    shortening: Shortening = field(default_factory=Shortening)

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, learn=self.learn, options={"settings": self})

    def left(self, step: int) -> float:
        """Share of the auxiliary losses' weights at a step."""
        return 1 - step / self.loop.steps if self.fade else 1.0


class AnswerObjective(Objective):
    """Answer the questions packed behind each picture, on all of its tokens and on some.

    Attributes:
        settings: of the phase.
        kinds: names of the kinds of questions.
    """

    settings: AnswerSettings
    kinds: ClassVar[Sequence[str]]

    def enter(self, options: Mapping[str, Any]) -> None:
        """Take the settings of a phase."""
        self.settings = options["settings"]

    # ------------------------------------------------------------------------------------- what a model says of itself

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The language model without its head."""

    @property
    @abstractmethod
    def head(self) -> nn.Module:
        """Its head."""

    @abstractmethod
    def visual(self, batch: Batch) -> Float[Tensor, "b n d"]:
        """The visual tokens of each picture, as the decoder is given them."""

    @abstractmethod
    def shown(self, batch: Batch) -> Bool[Tensor, "b n"]:
        """Which of them show something."""

    @abstractmethod
    def named(self, batch: Batch) -> Int[Tensor, "b n"]:
        """The first token of the name of what each shows; `IGNORE` where that is nothing."""

    def counted(self, batch: Batch) -> Counting:
        """How the positions of a batch's visual tokens are counted."""
        return in_a_row

    def rule(self, batch: Batch) -> Shortening:
        """How much of a batch is taken away."""
        return self.settings.shortening

    @contextmanager
    def helped(
        self, batch: Batch, seen: Seen
    ) -> Iterator[Callable[[Read], Mapping[str, tuple[float, Tensor]]]]:
        """Further auxiliary losses: inside, the decoder runs; afterwards what is yielded gives weights and losses."""
        yield lambda found: {}

    # ------------------------------------------------------------------------------------------------- what is learnt

    def read(self, batch: Batch, visual: Float[Tensor, "b n d"], seen: Seen) -> Read:
        """Run the decoder over pictures and questions."""
        start = torch.tensor([self.decoder.config.bos_token_id])
        return read(self.decoder, self.decoder.layers, start, visual, batch, seen)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the answers, plus what is left of the auxiliary losses."""
        left, visual = self.settings.left(self.step), self.visual(batch)
        layers, generator = len(self.decoder.layers), self.shared("shortening")
        seen = drawn(self.shown(batch), layers, self.rule(batch), generator, self.counted(batch))
        with self.helped(batch, seen) as further:
            found = self.read(batch, visual, seen)
        total, accuracy = answer_loss(self.head, found, batch["target"])
        figures = {"answer": total, "token_acc": accuracy}
        helps = dict(further(found))
        if self.settings.naming_weight * left:
            loss = naming_loss(self.head, found, self.named(batch))
            helps = {"naming": (self.settings.naming_weight, loss), **helps}
        for name, (weight, loss) in helps.items():
            figures[name] = loss
            total = total + weight * left * loss
        return total, figures

    @torch.no_grad()
    def exact(self, batch: Batch) -> dict[str, tuple[int, int]]:
        """Kind -> (answered exactly, asked), on all tokens."""
        visual = self.visual(batch)
        rows, tokens = visual.shape[:2]
        found = self.read(batch, visual, whole(rows, tokens, self.counted(batch)))
        return exactly_answered(self.head, found, batch, self.kinds)


def rates(found: Iterable[Mapping[str, tuple[int, int]]]) -> dict[str, float]:
    """Exact match by kind of question, and "all", over several batches."""
    total: dict[str, tuple[int, int]] = {}
    for batch in found:
        for kind, (right, asked) in batch.items():
            before = total.get(kind, (0, 0))
            total[kind] = (before[0] + right, before[1] + asked)
    share = {kind: right / asked for kind, (right, asked) in sorted(total.items())}
    return {"all": sum(r for r, _ in total.values()) / sum(a for _, a in total.values())} | share


@dataclass(frozen=True, eq=False)
class Stage:
    """Phases of one objective.

    Attributes:
        objective: what is trained.
        phases: in their order.
        batches: phase -> step -> batch.
        validate: what is measured at each checkpoint, before the model is exported; None exports nothing yet.
    """

    objective: Objective
    phases: Sequence[Phase]
    batches: Callable[[Phase], Callable[[int], Batch]]
    validate: Callable[[], Mapping[str, float]] | None = None


def run_stages(
    stages: Sequence[Stage],
    output: Path,
    target: Path,
    export: Callable[[Mapping[str, Any]], None],
    *,
    stop_after: int | None = None,
    console: Console | None = None,
) -> Path | None:
    """Train stage after stage (or continue), export at checkpoints, and return what was exported last.

    Args:
        stages: in their order; the last one exports.
        output: folder of the run: checkpoints by phase, and ``validation.jsonl``.
        target: where `export` writes, `NOTES_FILE` included.
        export: writes the model as it is, with notes on how far it has come.
        stop_after: stop, checkpointed, after so many steps of all phases together.
        console: where progress is shown.

    Returns:
        `target`; None where the training stopped before its end.
    """
    console = console or Console()
    phases = [phase for stage in stages for phase in stage.phases]
    stop = phase_at(phases, stop_after)

    def check(stage: Stage, phase: Phase, step: int) -> None:
        assert stage.validate is not None
        found = dict(stage.validate())
        console.print(
            f"{phase.name} step {step}: " + "  ".join(f"{k} {rate:.1%}" for k, rate in found.items())
        )
        figures = {"phase": phase.name, "step": step, "validation": found}
        with (output / "validation.jsonl").open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        export(figures)

    for stage in stages:
        here = stop is not None and stop[0] in {phase.name for phase in stage.phases}

        def checked(phase: Phase, step: int, stage: Stage = stage) -> None:
            check(stage, phase, step)

        train_phases(
            stage.objective,
            stage.phases,
            stage.batches,
            output,
            title="",
            on_checkpoint=None if stage.validate is None else checked,
            stop_after=stop if here else None,
            console=console,
        )
        if here:
            return None
    last, notes = phases[-1], target / NOTES_FILE
    done = {"phase": last.name, "step": last.loop.steps}
    if not notes.is_file() or not done.items() <= json.loads(notes.read_text()).items():
        check(stages[-1], last, last.loop.steps)  # died before the last export
    return target
