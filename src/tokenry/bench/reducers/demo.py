"""The main job in five minutes: the methods compared on the embedded model and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenry.bench.reducers.compare import Comparison

QUESTIONS: Final = 200
"""Questions that a demo asks unless it is told otherwise; the command line says so before torch is imported."""


def run_demo(
    out: str | Path, *, questions: int = QUESTIONS, seeds: int = 3, progress: bool = True
) -> Comparison:
    """Compare every method that comes with tokenry at 50, 25 and 10 % on the embedded model.

    Args:
        out: folder for the results.
        questions: about held-out scenes.
        seeds: repetitions of random.
        progress: whether to show a progress bar.
    """
    from tokenry.bench.reducers.arms import BASELINES, BUDGETS
    from tokenry.bench.reducers.compare import compare
    from tokenry.bench.reducers.data import SCENES, load_data
    from tokenry.models.load import load
    from tokenry.reduce.registry import REDUCERS

    model, processor = load("embedded")
    data = load_data(SCENES, questions)
    methods = [name for name in REDUCERS.names() if name not in BASELINES]
    return compare(
        model,
        processor,
        data.examples,
        methods,
        BUDGETS,
        seeds=seeds,
        out=out,
        name="Embedded model",
        data_name=data.name,
        max_new_tokens=8,
        progress=progress,
    )
