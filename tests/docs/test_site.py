"""The documentation builds without a warning, and the files that it points to exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tokenry.catalog import Card

ROOT = Path(__file__).parents[2]


def test_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "methods/index.html").is_file()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_outside_the_site_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_example_card_of_the_guide_is_a_card() -> None:
    text = (ROOT / "docs/adding-a-method.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(name.*?)```", text, re.DOTALL)
    assert block is not None
    assert (
        Card.from_mapping("brightest", tomllib.loads(block[1])).entry_point
        == "tokenry.reduce.brightest:Brightest"
    )
