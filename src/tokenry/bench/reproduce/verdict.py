"""The verdict on what was measured, and the file that it ends up in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.bench.reproduce.figure import Figure
from tokenry.bench.reproduce.recipe import Criterion
from tokenry.tokens import InputError
from tokenry.tokens.files import whole_file


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction.

    Attributes:
        path: the file it was written to.
        values: its content.
    """

    path: Path
    values: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """ "shown", "partly" or "not shown"."""
        return str(self.values["verdict"])


def judge(
    criteria: tuple[Criterion, ...], figures: Mapping[str, Figure], seeds: str
) -> tuple[str, dict[str, Any]]:
    """The verdict: `shown` if every criterion holds, `partly` if a decisive one does, else `not shown`.

    Args:
        criteria: of the recipe.
        figures: what was measured.
        seeds: what the values of one seed each are called.

    Returns:
        The verdict, and for each criterion what it says, its bound, the figure, and whether it holds.

    Raises:
        InputError: a criterion about a figure that the experiment does not measure.
    """
    if missing := [c.name for c in criteria if c.name not in figures]:
        raise InputError(
            f"The recipe has a criterion about {missing[0]!r}; measured were {', '.join(figures)}."
        )
    held = {c.name: c.holds(figures[c.name].value) for c in criteria}
    judged = {
        c.means: {"holds": held[c.name], c.kind.replace("_", " "): c.bound, "decisive": c.decisive}
        | figures[c.name].to_json(seeds)
        for c in criteria
    }
    if all(held.values()):
        return "shown", judged
    return ("partly" if any(held[c.name] for c in criteria if c.decisive) else "not shown"), judged


def write(values: Mapping[str, Any], path: Path) -> Reproduction:
    """Write a result, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    text = json.dumps(_without_nan(values), indent=1, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")
    return Reproduction(path, values)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, Mapping):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
