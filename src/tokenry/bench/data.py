"""Naming data on the command line: a folder of the user's own, or a built-in set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenry.data.examples import Example, load_folder, load_scenes
from tokenry.tokens import InputError

SCENES = "scenes"
DEFAULT_SIZE = 200


@dataclass(frozen=True)
class Data:
    """Questions about pictures.

    Attributes:
        name: how the set is called in reports.
        examples: the questions.
        skipped: what of a folder could not be used, one line each.
    """

    name: str
    examples: Sequence[Example]
    skipped: tuple[str, ...] = ()


def load_data(spec: str | Path, limit: int | None = None) -> Data:
    """Read a data set by name or folder.

    Args:
        spec: "scenes" (composed pictures, held-out split), or a folder with pictures and a questions file.
        limit: at most so many questions.

    Raises:
        InputError: neither a name nor a folder; a limit below 1.
        TokenryError: a folder without usable questions.
    """
    if limit is not None and limit < 1:
        raise InputError(f"A limit of {limit} examples leaves nothing to compare on.")
    if str(spec) == SCENES:
        return Data("scenes, test split", load_scenes("test", limit or DEFAULT_SIZE, per_scene=2))
    folder = Path(spec)
    if not folder.is_dir():
        raise InputError(
            f"There is no data set and no folder {str(spec)!r}. Use '{SCENES}', or a folder with pictures and a "
            "questions.jsonl: one line per question, with image, question and, if known, answer."
        )
    report = load_folder(folder)
    return Data(folder.resolve().name, report.examples[:limit], report.skipped)
