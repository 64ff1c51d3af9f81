"""The page on lmms-eval runs as it is printed, and lmms-eval finds what `compare` finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tokenry as tk
from tokenry.data.questions.examples import load_folder

PAGE = Path(__file__).parents[2] / "docs/lmms-eval.md"
_BLOCK = re.compile(r'^```(python|yaml)(?: title="(.*?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def test_lmms_eval_and_compare_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full and reduced: every answer, and the score."""
    reason = f"lmms-eval is not installed; {PAGE.name} tells how"
    pytest.importorskip("lmms_eval", reason=reason)
    datasets = pytest.importorskip("datasets", reason=reason)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    page: dict[str, Any] = {}
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    for _, file, text in blocks:
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
    for _, file, text in blocks:
        if not file:
            exec(text, page)

    data = load_folder("pictures").examples
    ours = tk.compare(*load("small-vlm"), data, ["divprune"], ["25%"], seeds=1, out="ours")
    for theirs, row in ((page["full"], ours.row("none")), (page["fewer"], ours.row("divprune", "25%"))):
        answers = {r.example: r.answer for r in ours.results.results if r.method == row.method}
        said = {s["doc_id"]: s["filtered_resps"][0].strip() for s in theirs["samples"]["scenes"]}
        assert [said[i] for i in range(len(data))] == [answers[e.id] for e in data]
        assert theirs["results"]["scenes"]["exact_match,none"] == pytest.approx(row.score)
        print(row, row.score, len(data))
    assert page["full"]["results"] != page["fewer"]["results"]
