"""Optional packages: the extra that is named has the package, and every extra has somebody who needs it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tokenry.tokens.errors import UnsupportedError
from tokenry.tokens.extras import optional

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TOOLS = {"dev", "docs"}  # what whoever works on tokenry runs beside it


def _calls() -> Iterator[tuple[str, str]]:
    """Extra and package of every call of `optional` in the sources."""
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "optional":
                given = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg != "purpose"}
                yield given["extra"], given["package"]


def test_the_extra_that_is_named_brings_the_package() -> None:
    calls = set(_calls())
    brought = {(extra, Requirement(line).name) for extra, lines in EXTRAS.items() for line in lines}
    assert calls <= brought
    assert {extra for extra, _ in calls} == set(EXTRAS) - TOOLS, "an extra that nothing imports"


def test_nobody_else_says_how_to_install_an_extra() -> None:
    files = [f for f in (ROOT / "src").rglob("*.py") if "'tokenry[" in f.read_text(encoding="utf-8")]
    assert [f.name for f in files] == ["extras.py"]


def test_the_table_of_extras_has_them_all() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == sorted(set(EXTRAS) - TOOLS)


def test_make_venv_has_all_extras() -> None:
    found = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    assert found[1].split(",") == sorted(EXTRAS)


def test_what_is_missing_is_named_with_both_ways_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    message = (
        r"Clustering needs scikit-learn, which is not installed: pip install 'tokenry\[retrieval\]', "
        r"or pip install '\.\[retrieval\]' in a checkout\."
    )
    with pytest.raises(UnsupportedError, match=message):
        optional("sklearn.cluster", package="scikit-learn", extra="retrieval", purpose="Clustering")


def test_what_is_there_and_does_not_load_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text("import something_that_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsupportedError, match=r"cannot be imported \(No module named 'something_that"):
        optional("broken_package", package="broken-package", extra="adapt", purpose="This")
