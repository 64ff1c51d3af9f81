"""The main job in five minutes: the methods compared on the embedded model and its pictures."""

from __future__ import annotations

from pathlib import Path

from tokenry.bench.reducers.arms import BASELINES, BUDGETS
from tokenry.bench.reducers.compare import Comparison, compare
from tokenry.bench.reducers.data import SCENES, load_data
from tokenry.models.load import load_model
from tokenry.reduce.registry import method_paths

QUESTIONS = 200


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
    model, processor = load_model("embedded")
    data = load_data(SCENES, questions)
    methods = sorted(set(method_paths()) - set(BASELINES))
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
