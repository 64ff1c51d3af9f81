"""The Python blocks of the README and of the guide run as they are printed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)  # blocks marked `py` need the reader's own files


@pytest.mark.parametrize(
    "page",
    [
        pytest.param("README.md", marks=pytest.mark.packages),  # it fetches SmolLM2
        pytest.param("docs/adding-a-method.md", marks=pytest.mark.packages),
        "docs/metrics.md",
        "docs/serving.md",
    ],
)
def test_python_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(_BLOCK.finditer(text))
    assert blocks, f"{page} shows no Python"
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    for block in blocks:
        line = text.count("\n", 0, block.start(1))
        # dont_inherit: the reader's file does not begin with this one's `from __future__`
        exec(compile("\n" * line + block[1], str(ROOT / page), "exec", dont_inherit=True), module.__dict__)
