"""Rows: arithmetic on results, checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.reducers import synthetic
from tokenry.bench.reducers.choose import choose, cost_column, safest
from tokenry.bench.reducers.columns import COLUMNS, bracket
from tokenry.bench.reducers.headline import headline, versus_baselines
from tokenry.bench.reducers.plots import styles
from tokenry.bench.reducers.results import ArmResult, Failure, Line, Results, read_results
from tokenry.bench.reducers.summary import Row, changes, same_choice, summarise, warnings
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


def test_what_a_kind_of_question_lost_is_told_of_the_same_questions(tmp_path: Path) -> None:
    """The model is right on one count of two, and the arm has answered only the other as yet."""
    content: list[Line] = [synthetic.run(4)]
    content += [synthetic.result(item=i, score=float(i != 3)) for i in range(4)]
    content += [synthetic.result("fine", "50%", i, 0.0) for i in (2, 3)]
    fine = next(r for r in summarise(read(tmp_path, content)) if r.method == "fine")
    assert fine.by_topic == {"count": 0.0, "place": 0.0}
    assert fine.lost_by_topic == {"count": 0.0, "place": 1.0}


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
    found = choose(list(rows.values()), allowed_drop=0.3)  # 0 lost of 20 pictures, in 8 rows
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
    assert fine.sure is not None
    assert -0.3 < fine.sure.low < fine.change.low < -0.01


def test_what_was_tried_widens_what_is_claimed(tmp_path: Path) -> None:
    """The interval of a row is its own; what is chosen by has to hold for all rows together."""
    content = synthetic.lines()
    few = [line for line in content if not isinstance(line, ArmResult) or line.method in ("none", "fine")]
    (alone, *_), (among, *_) = (
        [r for r in summarise(read(tmp_path / str(i), some)) if r.method == "fine"]
        for i, some in enumerate((few, content))
    )
    assert alone.change == among.change
    assert among.sure is not None
    assert alone.sure is not None
    assert among.sure.low < alone.sure.low < among.change.low  # type: ignore[union-attr]
    assert choose([alone], allowed_drop=-alone.sure.low).best is alone
    assert choose([among], allowed_drop=-alone.sure.low).best is None


def test_rows_meet_the_baselines_by_the_same_examples(rows: dict[tuple[str, str], Row]) -> None:
    fine, poor = rows["fine", "25%"], rows["poor", "25%"]
    assert [r.name for r in fine.against] == ["random", "pool"]
    by_hand = {"random": 1.0 - 0.9, "pool": 1.0 - 0.75}
    for name, difference in by_hand.items():
        rivalry = fine.versus(name)
        assert rivalry is not None
        assert rivalry.change.mean == pytest.approx(difference)
        assert rivalry.sure.low < rivalry.change.low < difference < rivalry.change.high
        assert not poor.versus(name).is_better  # type: ignore[union-attr]
    assert fine.versus("resize") is None
    assert rows["random", "25%"].against == ()
    assert not any(r.is_better for r in poor.against)


def test_better_is_better_than_each_baseline(tmp_path: Path) -> None:
    """30 of 40 answers more than one baseline, and as many as the other."""
    content: list[Line] = [synthetic.run(40)]
    for i in range(40):
        content += [synthetic.result(item=i), synthetic.result("fine", "50%", i)]
        content += [synthetic.result("random", "50%", i, float(i % 4 == 0))]
        content += [synthetic.result("pool", "50%", i, 1.0)]
    fine = next(r for r in summarise(read(tmp_path, content)) if r.method == "fine")
    assert [r.is_better for r in fine.against] == [True, False]
    said = versus_baselines(fine)
    assert said.startswith(
        "It is better than random at this budget, with 97.5 % confidence for all arms together, but"
    )
    assert "not shown to be better than pool at this budget: against random " in said
    (random, pool) = fine.against
    assert said.endswith(f"{bracket(random.sure)} and pool +0.0 points {bracket(pool.sure)}.")
    content = [line for line in content if not (isinstance(line, ArmResult) and line.method == "pool")]
    content += [synthetic.result("pool", "50%", i, float(i % 4 == 1)) for i in range(40)]
    fine = next(r for r in summarise(read(tmp_path / "again", content)) if r.method == "fine")
    assert all(r.is_better for r in fine.against)
    assert versus_baselines(fine).startswith("It is better than random and pool at this budget, with 97.5 %")


def test_a_method_that_acts_late_is_said_to_have_more_tokens(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(40), *(synthetic.result(item=i) for i in range(40))]
    content += [synthetic.result("random", "25%", i, 0.0) for i in range(40)]
    for method, layers in (("fine", (4, 4, 4, 4)), ("poor", (16, 16, 4, 4))):
        content += [synthetic.result(method, "25%", i, by_layer=layers) for i in range(40)]
    rows = {r.method: r for r in summarise(read(tmp_path, content))}
    assert "tokens a layer" not in versus_baselines(rows["fine"])
    assert versus_baselines(rows["poor"]).endswith(" But it has 10 tokens a layer where random has 4.")


def test_counts_stand_beside_shares(rows: dict[tuple[str, str], Row]) -> None:
    poor = rows["poor", "25%"]
    assert poor.scored == 40
    assert poor.outcomes is not None
    assert (poor.outcomes.lost, poor.outcomes.gained, poor.outcomes.same) == (16, 0, 24)
    columns = {c.name: c for c in COLUMNS}
    assert [columns[n].of(poor) for n in ("score", "correct", "scored", "lost")] == ["60.0", "24", "40", "16"]


def test_a_full_model_that_is_never_right_is_a_warning(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(4)]
    content += [synthetic.result(item=i, score=0.0, answer="a cat", truth="B") for i in range(4)]
    results = read(tmp_path, content)
    (warning,) = warnings(results, summarise(results))
    for part in ("0.0 % of 4 questions", "Is the metric right?", "'a cat'", "'B'", "what is number"):
        assert part in warning
    results = read(tmp_path / "right", [*content, synthetic.result(item=4), synthetic.run(5)])
    assert warnings(results, summarise(results)) == ()


def test_methods_that_chose_alike_are_named(tmp_path: Path) -> None:
    def arm(method: str, budget: str, kept: str, **more: Any) -> list[Line]:
        return [synthetic.result(method, budget, i, kept=f"{kept} {i}", **more) for i in range(3)]

    full: list[Line] = [synthetic.run(3), *(synthetic.result(item=i) for i in range(3))]
    content = [*full, *arm("fine", "50%", "x"), *arm("poor", "50%", "x"), *arm("pool", "50%", "y")]
    content += [*arm("fine", "25%", "x"), *arm("poor", "25%", "x"), *arm("pool", "25%", "x", seed=1)]
    assert same_choice(read(tmp_path / "a", content)) == (
        "fine and poor kept the same tokens of every picture at 50% and 25%: on this model they are one method.",
    )
    content += [synthetic.result("poor", "25%", 2, kept="z")]  # replaces the one of that key
    (only,) = same_choice(read(tmp_path / "b", content))
    assert "at 50%:" in only
    merged = [*full, *arm("fine", "50%", "x"), *arm("poor", "50%", "x", answer="weighed otherwise")]
    assert same_choice(read(tmp_path / "d", merged)) == ()
    everything = arm("fine", "50%", "x", by_layer=(synthetic.TOKENS,) * synthetic.LAYERS)
    everything += arm("poor", "50%", "x", by_layer=(synthetic.TOKENS,) * synthetic.LAYERS)
    assert same_choice(read(tmp_path / "c", [*full, *everything])) == ()


def _with_failures(items: int, failures: int) -> list[Line]:
    """`fine` loses nothing of what it answers, and fails on the last questions; `poor` is as good, on all of them."""
    content: list[Line] = [synthetic.run(items)]
    for i in range(items):
        content += [synthetic.result(item=i), synthetic.result("poor", "50%", i)]
        content += [synthetic.result("random", "50%", i, float(i % 2))]
        content += [synthetic.result("random", "25%", i, float(i % 2))]
        if i < items - failures:
            content.append(synthetic.result("fine", "25%", i))
        else:
            where = (synthetic.SETTING, "fine", "25%", 0, f"item-{i}", f"question {i}", "p", "what?")
            content.append(Failure(*where, "MemoryError", "Out of memory."))
    return content


def test_what_an_arm_fails_on_is_lost_where_it_is_claimed_to_keep_something(tmp_path: Path) -> None:
    """Half of the questions: the smaller budget is as good on the rest, and no choice for a user who has all."""
    rows = {(r.method, r.budget): r for r in summarise(read(tmp_path, _with_failures(200, 100)))}
    fine = rows["fine", "25%"]
    assert (fine.scored, fine.failed, fine.score) == (100, 100, 1.0)
    assert fine.change is not None
    assert fine.sure is not None
    assert (fine.change.mean, fine.sure.mean) == (0.0, -0.5)
    assert not any(r.is_better for r in fine.against)
    found = choose(list(rows.values()), allowed_drop=0.2).best
    assert str(found) == "poor at 50%"
    rows = {(r.method, r.budget): r for r in summarise(read(tmp_path / "few", _with_failures(200, 2)))}
    assert str(choose(list(rows.values()), allowed_drop=0.2).best) == "fine at 25%"


def test_a_baseline_that_answered_other_questions_is_no_rival(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(4), *(synthetic.result(item=i) for i in range(4))]
    content += [synthetic.result("fine", "50%", i) for i in range(2)]
    content += [synthetic.result("random", "50%", i) for i in range(2, 4)]
    fine = next(r for r in summarise(read(tmp_path, content)) if r.method == "fine")
    assert fine.against == ()
    assert versus_baselines(fine) == "No baseline was measured at this budget."


def test_a_baseline_that_is_chosen_is_called_one(tmp_path: Path) -> None:
    """Under its own rule for position ids, too."""
    content: list[Line] = [synthetic.run(200)]
    for i in range(200):
        content += [synthetic.result(item=i), synthetic.result("random(positions=compact)", "50%", i)]
        content.append(synthetic.result("fine", "25%", i, float(i % 2)))
    rows = summarise(read(tmp_path, content))
    assert [r.is_baseline for r in rows] == [False, False, True]
    assert "random(positions=compact) at 50% is the cheapest" in headline(rows)
    assert headline(rows).endswith(
        "It is a baseline itself: no method compared here is shown to keep as much for less."
    )
    pool = synthetic.result("pool", "50%", 0)
    looks = styles(summarise(read(tmp_path / "pool", [*content, pool])))
    assert looks["random(positions=compact)"].colour == looks["pool"].colour != looks["fine"].colour
    assert len({(look.colour, look.marker) for look in looks.values()}) == 4


def test_of_equals_a_method_is_taken_and_not_a_baseline(tmp_path: Path) -> None:
    content: list[Line] = [synthetic.run(40)]
    for i in range(40):
        content += [
            synthetic.result(item=i),
            synthetic.result("pool", "50%", i),
            synthetic.result("fine", "50%", i),
        ]
    rows = summarise(read(tmp_path, content))
    assert str(choose(rows, allowed_drop=0.5).best) == "fine at 50%"
    assert str(safest(rows)) == "fine at 50%"
    assert safest(rows[:1]) is None


def test_cost_columns_are_checked() -> None:
    assert cost_column("kv_bytes").label == "KV cache"
    with pytest.raises(UnknownNameError, match="prefill_ms"):
        cost_column("speed")
