"""Values are read as the types that a dataclass declares; what is wrong is said with where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenry.tokens.typed import reader


@dataclass(frozen=True)
class Loop:
    steps: int
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True)
class Recipe:
    output: Path
    loops: tuple[Loop, ...]
    mode: Literal["fast", "slow"] = "fast"
    scale: Mapping[str, float] = field(default_factory=dict)
    seed: int | str | None = None
    dry: bool = False
    rest: Any = None


def test_a_whole_value_becomes_what_is_declared() -> None:
    content = {
        "output": "runs/x",
        "loops": [{"steps": 3, "lr": 1}, {"steps": 4, "betas": [0.5, 0.9]}],
        "mode": "slow",
        "scale": {"head": 2},
        "seed": "a",
        "dry": True,
        "rest": {"a": [1, "b", None]},
    }
    found = reader(Recipe)(content)
    loops = (Loop(3, 1), Loop(4, betas=(0.5, 0.9)))
    assert found == Recipe(Path("runs/x"), loops, "slow", {"head": 2}, "a", True, {"a": [1, "b", None]})
    assert reader(Recipe)({"output": "x", "loops": [], "seed": None}) == Recipe(Path("x"), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loops": [{"steps": 1}, {"stepz": 1}]},
            "loops[1]: there is no setting 'stepz', but steps, lr, betas",
        ),
        ({"loops": [{}]}, "loops[0]: it lacks 'steps'"),
        ({"loops": [{"steps": 1.5}]}, "loops[0].steps: a number (1.5) where a whole number belongs"),
        ({"loops": [{"steps": True}]}, "loops[0].steps: true or false (True) where a whole number belongs"),
        ({"loops": [{"steps": 1, "betas": [1]}]}, "loops[0].betas: a list of 1 where one of 2 belongs"),
        (
            {"loops": [{"steps": 1, "betas": [1, "x"]}]},
            "loops[0].betas[1]: a text ('x') where a number belongs",
        ),
        ({"loops": [{"steps": 1, "lr": "1e-3"}]}, "loops[0].lr: '1e-3' is a text in YAML, not a number"),
        ({"loops": [{"steps": 1, "lr": float("nan")}]}, "loops[0].lr: nan is not a number of this world"),
        ({"loops": {}}, "loops: an object ({}) where a list belongs"),
        ({"mode": "fasst"}, "mode: 'fasst' where one of fast, slow belongs"),
        ({"scale": {"head": None}}, "scale.head: nothing (None) where a number belongs"),
        ({"scale": {1: 2.0}}, "scale: a whole number (1) where a text belongs"),
        ({"seed": 1.5}, "seed: a number (1.5) where a text belongs"),
        ({"dry": 1}, "dry: a whole number (1) where true or false belongs"),
    ],
)
def test_what_is_of_another_type_is_said_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as wrong:  # noqa: PT011 - the words are compared
        reader(Recipe)({"output": "x", "loops": []} | changes)
    assert str(wrong.value).startswith(message)
