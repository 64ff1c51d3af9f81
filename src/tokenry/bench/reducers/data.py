"""Naming data on the command line: a folder or file of the user's own, or a built-in set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenry.catalog import cards
from tokenry.data.images.pictures import shown
from tokenry.data.questions.examples import Example, Skipped, load_folder, load_scenes
from tokenry.data.scenes.style import SMALL, STYLES, SceneStyle
from tokenry.tokens import InputError

SCENES = "scenes"
DEFAULT_SIZE = 200


@dataclass(frozen=True)
class Data:
    """Questions about pictures.

    Attributes:
        name: how the set is called in reports.
        examples: the questions.
        skipped: what of a folder could not be used, one entry for each reason.
    """

    name: str
    examples: Sequence[Example]
    skipped: tuple[Skipped, ...] = ()


def scenes_of(model: str | Path) -> SceneStyle | None:
    """The style of the scenes that a model by name was trained on, as its card says; None where no card says any."""
    said = next((card.scenes for card in cards() if card.slug == str(model)), None)
    return None if said is None else {style.name: style for style in STYLES}[said]


def load_data(spec: str | Path, limit: int | None = None, *, model: str | Path | None = None) -> Data:
    """Read a data set by name, folder or file of questions.

    Args:
        spec: "scenes" (composed pictures, held-out split), a folder with pictures and a file of questions, or that
            file (`load_folder`).
        limit: at most so many questions; the rest is not read.
        model: the name of the model that is to be asked: scenes are drawn as it knows them, and as the embedded model
            does where nothing is known of it.

    Raises:
        InputError: neither a name nor a folder or file; a limit below 1; no usable questions.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit} examples leaves nothing to compare on.")
    if str(spec) == SCENES:
        style = (None if model is None else scenes_of(model)) or SMALL
        examples = load_scenes("test", limit or DEFAULT_SIZE, per_scene=1, style=style)
        return Data(f"scenes of {style.side} pixels, test split", examples)
    path = Path(spec)
    if not os.path.exists(path):  # unlike Path.exists, it takes every text
        raise InputError(
            f"There is no data set, folder or file {str(spec)!r}. Use '{SCENES}', or a folder with pictures and a "
            "questions.jsonl: one line per question, with image, question and, if known, answer."
        )
    report = load_folder(path, limit)
    return Data(_name(path), report.examples, report.skipped)


def _name(path: Path) -> str:
    """Name of a folder, the same for its file of questions; another file in it goes by both names."""
    place = path.resolve()
    if place.is_dir():
        return shown(place.name)
    return shown(place.parent.name if place.stem == "questions" else f"{place.parent.name}/{place.name}")
