"""The lines that a test bed has to meet, each with the claims that a miss blocks.

All are about a quarter of the visual tokens with position ids kept, unless a line says otherwise; all differences are
in points, paired by question, with intervals over pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from tokenry.bench.reproduce.design import Criterion
from tokenry.bench.reproduce.measurement import Measurement, rounded
from tokenry.bench.reproduce.vqa.predictions import Predictions, mean_over, points
from tokenry.bench.testbeds.asking import BedArm
from tokenry.bench.testbeds.bed import Bed
from tokenry.bench.testbeds.controls import LeastByCls, Nothing, Oracle
from tokenry.bench.testbeds.showing import Grey
from tokenry.bench.testbeds.smaller import smaller_pictures, why_not_smaller
from tokenry.reduce import Reducer
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Cut, Depth, Positions, Stage

Answered: TypeAlias = Mapping[str, Predictions]
"""What a bed answered under each arm, by its name."""

BUDGET: Final = 0.25
SEEDS: Final = 3
FULL: Final = BedArm("all tokens")
GREY: Final = BedArm("a grey picture", showing=Grey())
NO_TOKENS: Final = BedArm("no visual token", ((Nothing(),),))
RANDOM: Final = BedArm(
    "random tokens", tuple((RandomTokens(budget=BUDGET, seed=seed),) for seed in range(SEEDS))
)
REVERSED: Final = BedArm("tokens that [CLS] looks at least", ((LeastByCls(budget=BUDGET),),))
ORACLE: Final = BedArm("asked patches first", ((Oracle(budget=BUDGET),),))
RENUMBERED: Final = BedArm(
    "asked patches first, renumbered", ((Oracle(budget=BUDGET, positions=Positions.COMPACT),),)
)
GONE_LATE: Final = BedArm("no visual token after 7/8 of the layers", ((Nothing(after=0.875),),))

PASSED: Final = "passed"
MISSED: Final = "missed"
NOT_APPLICABLE: Final = "not applicable"


@dataclass(frozen=True)
class Line:
    """What a model must do before methods are judged on it.

    Attributes:
        name: of the line.
        asks: what it asks of the model, as a sentence.
        blocks: the claims that a miss blocks, as a clause ("that ...: because ...").
        kind: of the bound, "at_least" or "at_most".
        bound: on what is measured; points, or percent.
        arms: the ways of asking that are compared on a bed.
        measure: what the bound is about, from what the bed answered.
        lacks: what the line needs and a bed lacks, as a sentence; None where it has everything.
        note: what is to be known of how it was measured on a bed, as a sentence.
        concerns: whether a miss blocks claims about a method; None: about every method.
    """

    name: str
    asks: str
    blocks: str
    kind: str
    bound: float
    arms: Callable[[Bed], tuple[BedArm, ...]]
    measure: Callable[[Bed, Answered], Measurement]
    lacks: Callable[[Bed], str | None] = field(default=lambda bed: None)
    note: Callable[[Bed], str | None] = field(default=lambda bed: None)
    concerns: Callable[[Reducer, Depth], bool] | None = None

    @property
    def criterion(self) -> Criterion:
        """The bound on what is measured."""
        return Criterion(self.name, self.kind, self.bound, self.asks)

    def judge(self, bed: Bed, answered: Answered, methods: Sequence[Reducer] = ()) -> Verdict:
        """Hold a bed against the line.

        Args:
            bed: the bed.
            answered: what it answered under the line's arms.
            methods: those about which claims may be blocked.
        """
        lacks = self.lacks(bed)
        if lacks is not None:
            return Verdict(self, None, {}, lacks)
        arms = {arm.name: answered[arm.name].accuracy for arm in self.arms(bed)}
        depth, concerns = bed.host.depth, self.concerns
        concerned = None if concerns is None else tuple(m.slug for m in methods if concerns(m, depth))
        return Verdict(self, self.measure(bed, answered), arms, None, self.note(bed), concerned)


@dataclass(frozen=True)
class Verdict:
    """A line beside what was measured.

    Attributes:
        line: the line.
        measured: the value that its bound is about; None where the line does not apply.
        arms: accuracy under the ways of asking that it compares.
        lacks: why it does not apply.
        note: what is to be known of how it was measured.
        methods: about which methods a miss blocks claims; None: about every method.
    """

    line: Line
    measured: Measurement | None
    arms: Mapping[str, float]
    lacks: str | None = None
    note: str | None = None
    methods: tuple[str, ...] | None = None

    @property
    def word(self) -> str:
        """`passed`, `missed`, or `not applicable`."""
        if self.measured is None:
            return NOT_APPLICABLE
        return PASSED if self.line.criterion.holds(self.measured.value) else MISSED

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        line = self.line
        found: dict[str, Any] = {
            "line": line.name,
            "asks": line.asks,
            "bound": f"{line.kind.replace('_', ' ')} {line.bound:g}",
            "verdict": self.word,
        }
        if self.measured is not None:
            found |= self.measured.to_json("")
            found["arms"] = {name: rounded(100 * accuracy) for name, accuracy in self.arms.items()}
        if self.word == MISSED:
            found["blocks"] = line.blocks
            if self.methods is not None:
                found["methods"] = list(self.methods)
        return found | {k: v for k, v in (("lacks", self.lacks), ("note", self.note)) if v is not None}


def better(answered: Answered, arms: Sequence[BedArm]) -> Predictions:
    """What was answered under the arm of several that is answered best."""
    return max((answered[arm.name] for arm in arms), key=lambda found: found.accuracy)


# --- what a bed may lack -------------------------------------------------------------------------------------------


def _no_cls(bed: Bed) -> str | None:
    return None if bed.host.has_cls else "The encoder has no [CLS] whose attention could be read."


def _no_places(bed: Bed) -> str | None:
    return None if bed.knows_places else "It is not known which visual tokens show what is asked for."


def _no_layers(bed: Bed) -> str | None:
    why = bed.host.why_no_layer_stage
    return None if why is None else f"Tokens cannot leave inside the language model: {why}."


# --- which methods a miss concerns ---------------------------------------------------------------------------------


def _reads_cls(method: Reducer, depth: Depth) -> bool:
    return any(method.needs(cut, depth).cls for cut in method.decoder_cuts(depth))


def _cuts_layers(method: Reducer, depth: Depth) -> bool:
    return any(Cut.of(cut).stage is Stage.LAYER for cut in method.cuts(depth))


def _renumbers(method: Reducer, depth: Depth) -> bool:
    return method.paper_positions is Positions.COMPACT


# --- what is measured ----------------------------------------------------------------------------------------------


def _over_full(*arms: BedArm) -> Callable[[Bed, Answered], Measurement]:
    return lambda bed, answered: points(better(answered, arms), answered[FULL.name])


def _resized(bed: Bed, answered: Answered) -> Measurement:
    return points(better(answered, smaller_pictures(bed, BUDGET)), answered[FULL.name])


def _hard(bed: Bed, answered: Answered) -> Measurement:
    full, small = answered[FULL.name], better(answered, smaller_pictures(bed, BUDGET))
    hard = (full.correct > 0.5) & (small.correct <= 0.5)
    return mean_over(full, hard.astype(np.float64), scale=100)


def _renumbered(bed: Bed, answered: Answered) -> Measurement:
    kept = answered[ORACLE.name]
    elsewhere = np.array([kind not in bed.spatial for kind in kept.kinds])
    return points(answered[RENUMBERED.name], kept, where=elsewhere)


def _with_smaller(bed: Bed) -> tuple[BedArm, ...]:
    return FULL, *smaller_pictures(bed, BUDGET)


LINES: Final = (
    Line(
        "blind",
        "Without the picture accuracy falls by 30: with a grey one, or with no visual token, whichever does better.",
        "that a method keeps accuracy: the model answers without looking, so keeping it shows little.",
        "at_most",
        -30,
        lambda bed: (FULL, GREY, NO_TOKENS),
        _over_full(GREY, NO_TOKENS),
    ),
    Line(
        "random",
        "A quarter of the tokens, drawn by lot, costs 15.",
        "that a method beats random selection, and how methods rank: lots lose too little for anything to be better.",
        "at_most",
        -15,
        lambda bed: (FULL, RANDOM),
        _over_full(RANDOM),
    ),
    Line(
        "reversed [CLS]",
        "The quarter that [CLS] looks at least is 10 worse than one drawn by lot.",
        "that ranking by [CLS] attention helps or fails: here it does not tell what is asked for from background.",
        "at_most",
        -10,
        lambda bed: (RANDOM, REVERSED),
        lambda bed, answered: points(answered[REVERSED.name], answered[RANDOM.name]),
        lacks=_no_cls,
        concerns=_reads_cls,
    ),
    Line(
        "oracle",
        "A quarter of the tokens, the asked patches first and the rest by lot, loses at most 2.",
        "that a method loses because of what it selects: with the right tokens alone the model fails, too.",
        "at_least",
        -2,
        lambda bed: (FULL, ORACLE),
        _over_full(ORACLE),
        lacks=_no_places,
    ),
    Line(
        "resize",
        "A picture with a quarter of the pixels costs 15: natively small, or blown up, whichever does better.",
        "that selecting tokens is worth it: a smaller picture is cheaper, and answers nearly as well.",
        "at_most",
        -15,
        _with_smaller,
        _resized,
        note=why_not_smaller,
    ),
    Line(
        "hard questions",
        "Of all questions 30 % are answered from the picture and not from the better of the smaller ones.",
        "how methods do on hard questions: there are too few that a smaller picture does not answer.",
        "at_least",
        30,
        _with_smaller,
        _hard,
        note=why_not_smaller,
    ),
    Line(
        "late layers",
        "With all visual tokens gone after 7/8 of the layers at most 2 are lost.",
        "what cuts inside the language model cost: its last layers still read the picture, and large models' do not.",
        "at_least",
        -2,
        lambda bed: (FULL, GONE_LATE),
        _over_full(GONE_LATE),
        lacks=_no_layers,
        concerns=_cuts_layers,
    ),
    Line(
        "renumbering",
        "Renumbering the oracle's tokens costs at most 10, questions that ask for a place left out.",
        "what methods cost as their papers have them, where these renumber: the model knows full grids only.",
        "at_least",
        -10,
        lambda bed: (ORACLE, RENUMBERED),
        _renumbered,
        lacks=_no_places,
        concerns=_renumbers,
    ),
)
"""Every line, in the order of the table."""
