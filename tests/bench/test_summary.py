"""Rows: arithmetic on results, checked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import synthetic
from tokenry.bench.choose import choose, cost_column, retained
from tokenry.bench.results import Line, Results, read_results
from tokenry.bench.summary import Row, changes, summarise
from tokenry.tokens import UnknownNameError


def read(tmp_path: Path, content: list[Line]) -> Results:
    return read_results(synthetic.write(tmp_path / "results.jsonl", content))


@pytest.fixture
def rows(tmp_path: Path) -> dict[tuple[str, str], Row]:
    return {(r.method, r.budget): r for r in summarise(read(tmp_path, synthetic.lines()))}


def test_rows_come_as_planned(rows: dict[tuple[str, str], Row]) -> None:
    methods = ("random", "pool", "fine", "poor")
    arms = [(m, b) for m in methods for b in synthetic.BUDGETS]
    assert list(rows) == [("none", ""), *arms, ("picky", "50%")]


def test_figures_by_hand(rows: dict[tuple[str, str], Row]) -> None:
    poor = rows["poor", "25%"]
    assert poor.examples == 40
    assert poor.score == pytest.approx(0.6)
    assert poor.change is not None
    assert poor.change.mean == pytest.approx(-0.4)
    assert poor.change.low < -0.4 < poor.change.high < 0
    assert poor.agreement == pytest.approx(0.6)
    assert poor.by_layer == (4, 4, 4, 4)
    assert (poor.tokens, poor.tokens_mean, poor.full_tokens) == (4, 4, 16)
    assert poor.prefill_ms == 5
    assert poor.by_topic == {"count": pytest.approx(0.6), "place": pytest.approx(0.6)}
    assert rows["none", ""].change is None


def test_seeds_are_pooled_per_example(rows: dict[tuple[str, str], Row]) -> None:
    luck = rows["random", "50%"]
    assert (luck.examples, luck.seeds) == (40, 2)
    assert luck.score == pytest.approx(0.9)


def test_a_refusal_is_a_row(rows: dict[tuple[str, str], Row]) -> None:
    assert "no [CLS]" in (rows["picky", "50%"].refusal or "")
    assert rows["picky", "50%"].score is None


def test_only_examples_answered_on_all_tokens_count(tmp_path: Path) -> None:
    """An interrupted run may have answered under an arm and not yet on all tokens."""
    content: list[Line] = [synthetic.run(3), synthetic.result(item=0)]
    content += [synthetic.result("fine", "50%", i) for i in range(3)]
    content += [synthetic.result("poor", "50%", 2)]
    found = {r.method: r for r in summarise(read(tmp_path, content))}
    assert found["fine"].examples == 1
    assert "yet" in (found["poor"].refusal or "")


def test_without_references_there_is_agreement_and_no_score(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(4)]
    for i in range(4):
        content += [
            synthetic.result(item=i, score=None, answer="A cat."),
            synthetic.result("fine", "50%", i, None, answer="cat" if i else "dog"),
        ]
    fine = summarise(read(tmp_path, content))[1]
    assert fine.score is None
    assert fine.change is None
    assert fine.agreement == 0.75


def test_changed_answers(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(3)]
    for item, (before, after) in enumerate([(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]):
        content.append(synthetic.result(item=item, score=before, answer=f"before {item}"))
        content.append(synthetic.result("fine", "50%", item, after, answer=f"after {item}"))
    found = changes(read(tmp_path, content))["fine", "50%"]
    assert [c.verdict for c in found] == ["lost", "gained", "other"]


def test_chooses_the_cheapest_that_surely_keeps_enough(rows: dict[tuple[str, str], Row]) -> None:
    found = choose(list(rows.values()), allowed_drop=0.2)
    assert found.best is not None
    assert (found.best.method, found.best.budget) == ("fine", "25%")
    assert [r.method for r in found.frontier] == [
        "fine"
    ]  # as good as the full model, and cheaper than all others


def test_a_lucky_mean_is_not_enough(rows: dict[tuple[str, str], Row]) -> None:
    """`fine` lost nothing on 20 pictures, which does not yet show that it loses less than one point."""
    assert choose(list(rows.values()), allowed_drop=0.01).best is None
    fine = rows["fine", "25%"]
    assert fine.change is not None
    assert retained(fine) == pytest.approx(1 + fine.change.low)


def test_cost_columns_are_checked() -> None:
    assert cost_column("kv_bytes").label == "KV cache"
    with pytest.raises(UnknownNameError, match="prefill_ms"):
        cost_column("speed")
