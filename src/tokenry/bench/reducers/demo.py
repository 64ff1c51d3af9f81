"""The main job in five minutes: the methods compared on a model that comes with its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokenry.catalog import card, cards
from tokenry.tokens.errors import InputError

if TYPE_CHECKING:
    from tokenry.bench.reducers.compare import Comparison

QUESTIONS: Final = 200
"""Questions that a demo asks unless it is told otherwise; the command line says so before torch is imported."""


def require_scenes(model: str) -> None:
    """Refuse a model that no scenes are known of; done before torch is imported, it is said at once.

    Raises:
        InputError: its name is not that of a card that says which scenes it knows.
    """
    known = [one.slug for one in cards() if one.scenes is not None]
    if model not in known:
        raise InputError(
            f"The demo runs on models whose scenes are known ({', '.join(known)}), and {model!r} is none of them: "
            "compare methods on data of your own with `tokenry reduce compare`."
        )


def run_demo(
    out: str | Path,
    model: str = "embedded",
    *,
    questions: int = QUESTIONS,
    seeds: int = 3,
    progress: bool = True,
) -> Comparison:
    """Compare every method that comes with tokenry at 50, 25 and 10 % on a model and the scenes that it knows.

    Args:
        out: folder for the results.
        model: its name.
        questions: about held-out scenes.
        seeds: repetitions of random.
        progress: whether to show a progress bar.

    Raises:
        InputError: no scenes are known of the model.
    """
    require_scenes(model)
    from tokenry.bench.reducers.arms import BASELINES, BUDGETS
    from tokenry.bench.reducers.compare import compare
    from tokenry.bench.reducers.data import SCENES, load_data
    from tokenry.models.load import load
    from tokenry.reduce.registry import REDUCERS

    loaded, processor = load(model, reads="pictures")
    data = load_data(SCENES, questions, model=model)
    methods = [name for name in REDUCERS.names() if name not in BASELINES]
    return compare(
        loaded,
        processor,
        data.examples,
        methods,
        BUDGETS,
        seeds=seeds,
        out=out,
        name=card(model).name,
        data_name=data.name,
        max_new_tokens=8,
        progress=progress,
    )
