"""The page of models has a card for each that is known by name."""

from __future__ import annotations

import re
from pathlib import Path

from tokenry.models.pretrained import PACKAGED

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_every_model_with_a_name_has_a_card_and_a_licence() -> None:
    rows = dict(re.findall(r"^\| \[`([^`]+)`\]\(#[^)]+\) \|.*\| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert rows.keys() >= PACKAGED.keys()
    for name in PACKAGED:
        assert re.search(r"Apache-2\.0|MIT", rows[name])
        card = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"- **{what}**" in card for what in ("Is", "Trained", "Cannot")), name
