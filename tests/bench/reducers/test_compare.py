"""Comparing on a real (small, untrained) model: what is measured, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.reducers import synthetic
from tokenry.bench import compare, tune
from tokenry.bench.reducers import measure
from tokenry.bench.reducers.arms import plan_arms
from tokenry.bench.reducers.compare import Comparison
from tokenry.bench.reducers.measure import Batch, VisualPrompt, as_seen, recall
from tokenry.bench.reducers.results import TokenTrace, read_results
from tokenry.bench.reducers.summary import same_choice
from tokenry.data.questions.examples import Example, load_scenes
from tokenry.reduce import Scorer
from tokenry.tokens import Budget, InputError, Reduction, TokenryError, TokenView, UnsupportedError

EXAMPLES = load_scenes("test", 4, per_scene=2)
SHORT: dict[str, Any] = {"seeds": 2, "max_new_tokens": 3}


@pytest.fixture
def model(untrained: tuple[Any, Any]) -> Any:
    return untrained[0]


@pytest.fixture
def processor(untrained: tuple[Any, Any]) -> Any:
    return untrained[1]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What was encoded and asked, in order."""
    made: dict[str, list[str]] = {"encode": [], "answer": []}
    encode, answer = measure.encode, measure.answer

    def counted_encode(model: Any, batch: Batch, methods: Any) -> Any:
        made["encode"].append(" ".join(prompt.example.picture for prompt in batch.prompts))
        return encode(model, batch, methods)

    def counted_answer(
        model: Any, processor: Any, batch: Batch, encoded: Any, arm: Any, **options: Any
    ) -> Any:
        names = " ".join(prompt.example.id for prompt in batch.prompts)
        made["answer"].append(f"{names} {arm} {arm.seed}")
        return answer(model, processor, batch, encoded, arm, **options)

    monkeypatch.setattr(measure, "encode", counted_encode)
    monkeypatch.setattr(measure, "answer", counted_answer)
    return made


def test_every_arm_answers_every_question(model: Any, processor: Any, tmp_path: Path) -> None:
    found = compare(model, processor, EXAMPLES, ["fastervlm", "fastv"], ["25%"], out=tmp_path, **SHORT)
    assert [r.method for r in found.rows] == ["none", "random", "pool", "fastervlm", "fastv"]
    assert all(r.examples == 4 for r in found.rows)
    assert found.row("random", "25%").seeds == 2
    assert found.row("fastervlm", "25%").by_layer == (36,) * 4
    assert found.row("fastv", "25%").by_layer == (144, 144, 36, 36)
    assert found.row("none").tokens == 144
    full, cut = found.row("none"), found.row("fastervlm", "25%")
    assert (cut.prefill_flops or 0) < 0.4 * (full.prefill_flops or 0)
    assert (cut.kv_bytes or 0) < 0.4 * (full.kv_bytes or 0)
    assert full.recall == 1.0
    assert full.selection_ms == 0
    assert 0 < (cut.selection_ms or 0) < (cut.prefill_ms or 0)


def test_answers_are_those_of_the_model_itself(model: Any, processor: Any, tmp_path: Path) -> None:
    """`none`, with its picture encoded beforehand, says what plain `generate` says."""
    found = compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    for example in EXAMPLES:
        inputs = VisualPrompt.of(model, processor, example).inputs
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        said = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        assert [
            r.answer for r in found.results.results if r.method == "none" and r.example == example.id
        ] == [said]


def test_flops_of_the_full_model_are_what_torch_counts(model: Any, processor: Any) -> None:
    batch = Batch.of(model, processor, [VisualPrompt.of(model, processor, EXAMPLES[0])])
    encoded = measure.encode(model, batch, [])
    (found,) = measure.answer(model, processor, batch, encoded, plan_arms([], ["25%"])[0], max_new_tokens=1)
    # The counter does not know the fused CPU kernel; the plain one is made of products that it counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch.after(encoded), logits_to_keep=1)
    assert found.prefill_flops == counter.get_total_flops()


def test_a_picture_is_encoded_once(
    model: Any, processor: Any, tmp_path: Path, calls: dict[str, list[str]]
) -> None:
    compare(model, processor, EXAMPLES, ["divprune"], ["50%", "25%"], out=tmp_path, **SHORT)
    arms = len(plan_arms(["divprune"], ["50%", "25%"], seeds=2))
    pictures = list(dict.fromkeys(e.picture for e in EXAMPLES))
    assert calls["encode"][arms:] == pictures  # after the warm-up
    assert len(calls["answer"]) == arms * (1 + len(EXAMPLES))


def test_an_interrupted_comparison_continues_where_it_stopped(
    model: Any, processor: Any, tmp_path: Path, calls: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = len(plan_arms([], ["25%"], seeds=2))
    counted = measure.answer

    def interrupted(*args: Any, **options: Any) -> Any:
        if len(calls["answer"]) == arms + 6:
            raise KeyboardInterrupt
        return counted(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    saved = read_results(tmp_path / "results.jsonl").results
    assert len(saved) == 6
    calls["answer"].clear()
    found = compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    assert len(calls["answer"]) == arms + arms * len(EXAMPLES) - 6
    assert found.results.results[:6] == saved
    calls["answer"].clear()
    again = compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, **SHORT)
    assert calls["answer"] == []
    assert again.rows == found.rows


def test_only_what_is_new_is_measured(
    model: Any, processor: Any, tmp_path: Path, calls: dict[str, list[str]]
) -> None:
    compare(model, processor, EXAMPLES, [], ["25%"], out=tmp_path, limit=2, **SHORT)
    calls["answer"].clear()
    found = compare(model, processor, EXAMPLES, ["divprune"], ["25%"], out=tmp_path, limit=2, **SHORT)
    asked = [c for c in calls["answer"] if "divprune" not in c]
    assert len([c for c in calls["answer"] if "divprune" in c]) == 1 + 2
    assert not asked  # the others have no more to say
    assert {r.method for r in found.rows} == {"none", "random", "pool", "divprune"}


@pytest.mark.parametrize("change", ["answer", "question", "weights", "length"])
def test_another_question_model_or_setting_is_another_result(
    untrained: tuple[Any, Any], processor: Any, tmp_path: Path, calls: dict[str, list[str]], change: str
) -> None:
    model, one, options = untrained[0], EXAMPLES[0], dict(SHORT)
    compare(model, processor, [one], [], ["25%"], out=tmp_path, **options)
    calls["answer"].clear()
    weight = model.get_output_embeddings().weight
    before = weight.detach().clone()
    match change:
        case "answer":
            one = replace(one, answer="something else")
        case "question":
            one = replace(one, question="what is at the bottom?")
        case "length":
            options["max_new_tokens"] = 2
        case "weights":
            weight.data.add_(0.01)
    try:
        found = compare(model, processor, [one], [], ["25%"], out=tmp_path, **options)
    finally:
        weight.data.copy_(before)
    assert calls["answer"]
    assert all(r.examples == 1 for r in found.rows)  # the old question's results are not mixed in


def test_a_method_the_model_does_not_support_is_a_row(model: Any, processor: Any, tmp_path: Path) -> None:
    class Picky(Scorer):
        slug: ClassVar[str] = "picky"

        def score(self, view: TokenView) -> Any:
            raise UnsupportedError("This model has no left ear.")

        def reduce(self, view: TokenView, keep: Any) -> Reduction:
            raise UnsupportedError("This model has no left ear.")

    found = compare(model, processor, EXAMPLES[:1], [Picky(budget=0.5)], ["25%"], out=tmp_path, **SHORT)
    assert found.row("picky", "25%").refusal == "This model has no left ear."
    assert found.row("pool", "25%").examples == 1
    assert found.failure is None


def test_bad_input_is_refused_before_the_model_runs(
    model: Any, processor: Any, tmp_path: Path, calls: dict[str, list[str]]
) -> None:
    (tmp_path / "file").write_text("in the way")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"data": []}, "empty"),
        ({"methods": ["divprun"]}, "divprune"),
        ({"budgets": ["0%"]}, "0"),
        ({"budgets": [1.5]}, "1.5"),
        ({"budgets": [float("nan")]}, "nan"),
        ({"limit": 0}, "limit"),
        ({"seeds": 0}, "seed"),
        ({"threads": 0}, "thread"),
        ({"positions": "here"}, "ositions"),
        ({"out": tmp_path / "file"}, "another folder"),
        ({"data": [EXAMPLES[0], EXAMPLES[0]]}, "more than once"),
        ({"metric": "exakt"}, "exact, contains, vqa, anls, multiple-choice"),
        ({"metric": "multiple-choice"}, "can judge none of the examples"),
        ({"prompt": "What is it?"}, "{question} in it"),
    ]
    for change, message in cases:
        options = {"data": EXAMPLES, "methods": [], "budgets": ["25%"], "out": tmp_path / "out"} | change
        with pytest.raises(TokenryError, match=message):
            compare(model, processor, **options)
    assert calls == {"encode": [], "answer": []}


def test_the_model_is_left_as_it_was(model: Any, processor: Any, tmp_path: Path) -> None:
    model.train()
    threads = torch.get_num_threads()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    try:
        compare(model, processor, EXAMPLES[:1], ["fastv"], ["25%"], out=tmp_path, threads=1, **SHORT)
        assert model.training
    finally:
        model.eval()
    assert torch.get_num_threads() == threads
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_without_references_there_are_no_scores(model: Any, processor: Any, tmp_path: Path) -> None:
    data = [replace(e, answer=None) for e in EXAMPLES]
    found = compare(model, processor, data, [], ["50%"], out=tmp_path, **SHORT)
    assert found.row("pool", "50%").score is None
    assert found.row("pool", "50%").agreement is not None
    with pytest.raises(InputError, match="reference answers"):
        tune(model, processor, data, out=tmp_path)


def test_a_metric_of_ones_own(model: Any, processor: Any, tmp_path: Path) -> None:
    """It sees the whole example, and its name and source are part of what identifies a result."""
    seen = []

    def mine(prediction: str, example: Example) -> float:
        seen.append((example.id, example.kind, bool(example.regions)))
        return 0.25

    found = compare(model, processor, EXAMPLES, [], ["50%"], out=tmp_path, metric=mine, **SHORT)
    assert found.row("none").score == 0.25
    assert set(seen) == {(e.id, e.kind, bool(e.regions)) for e in EXAMPLES}
    assert "mine" in found.results.runs[0].facts["metric"]


def test_the_question_is_put_in_the_prompt(model: Any, processor: Any, tmp_path: Path) -> None:
    """The rendered question is what is asked and written down; another prompt is another comparison."""
    asked = replace(
        EXAMPLES[0], question="what is in {choices}?", choices=("a {question}", "a dog"), answer="A"
    )
    options: dict[str, Any] = {"out": tmp_path, "metric": "multiple-choice", **SHORT}
    usual = compare(model, processor, [asked], [], ["50%"], **options).results
    mine = compare(
        model, processor, [asked], [], ["50%"], prompt="{choices}\n\nQ: {question}", **options
    ).results
    assert {r.question for r in usual.results} == {
        "what is in {choices}?\nA. a {question}\nB. a dog\n"
        "Answer with the option's letter from the given choices directly."
    }
    assert {r.question for r in mine.results} == {"A. a {question}\nB. a dog\n\nQ: what is in {choices}?"}
    assert usual.runs[0].setting != mine.runs[0].setting
    assert {r.score for r in mine.results} <= {0.0, 1.0}


def test_the_same_tokens_under_another_position_rule_are_another_method(
    model: Any, processor: Any, tmp_path: Path
) -> None:
    found = compare(
        model,
        processor,
        EXAMPLES[:2],
        ["fastervlm", "vtc-cls"],
        ["50%"],
        out=tmp_path,
        positions="paper",
        **SHORT,
    )
    kept = {(r.method, r.item): r.kept for r in found.results.results if not r.seed}
    for item in {item for _, item in kept}:
        assert kept["pool", item] != kept["pool(positions=compact)", item]
    assert not [line for line in same_choice(found.results) if "compact" in line]


def test_tuning_takes_the_cheapest_that_keeps_enough(model: Any, processor: Any, tmp_path: Path) -> None:
    """Scored so that nothing is ever lost, the smallest budget wins; the bound is that of four pictures."""
    data = load_scenes("test", 4, per_scene=1)
    options = {
        "methods": ["divprune"],
        "budgets": ["50%", "25%"],
        "out": tmp_path,
        "metric": lambda a, b: 1.0,
    }
    found = tune(model, processor, data, max_drop=0.8, **options, **SHORT)
    assert found.best is not None
    assert found.best.budget == "25%"
    assert found.methods is not None
    assert found.methods[0].limit.share == 0.25
    none = tune(model, processor, data, target=0.99, **options, **SHORT)
    assert none.best is None
    assert none.methods is None
    assert "Compare on more" in str(none)
    for bad in ({"target": 0.0}, {"target": 1.5}, {"max_drop": -0.1}, {"by": "speed"}):
        with pytest.raises(TokenryError):
            tune(model, processor, data, **(options | bad))


def test_tuning_chooses_among_what_it_was_asked_for(model: Any, processor: Any, tmp_path: Path) -> None:
    """The folder may hold cheaper arms of another run, whose methods nobody has configured here."""
    data = load_scenes("test", 4, per_scene=1)
    options: dict[str, Any] = {"out": tmp_path, "metric": lambda a, b: 1.0, **SHORT}
    compare(model, processor, data, [], ["25%"], **options)
    found = tune(model, processor, data, max_drop=0.9, methods=[], budgets=["50%"], **options)
    assert found.comparison.row("pool", "25%").sure is not None
    assert str(found.best) == "random at 50%"
    assert found.methods is not None
    assert "for all 4 arms together" in str(found)


@pytest.mark.parametrize("budget", [0.25, "25%", Budget.of(0.25)])
def test_a_row_is_found_by_any_budget_that_means_its_own(tmp_path: Path, budget: Any) -> None:
    path = synthetic.write(tmp_path / "results.jsonl", synthetic.lines(4))
    found = Comparison(path, read_results(path))
    assert found.row("fine", budget).budget == "25%"
    with pytest.raises(InputError, match="fine at 75% was not compared; there are none, random at 50%"):
        found.row("fine", 0.75)


def test_recall_counts_patches_under_the_regions_by_how_long_they_lived() -> None:
    corner, size = ((0, 0, 48, 48),), EXAMPLES[0].image.size  # the top left of 2 x 2 patches
    assert recall(TokenTrace((1, 2, 2), 4, (3, 0, 0, 4)), corner, size) == 0.75
    assert recall(TokenTrace((1, 2, 2), 4, (0, 4, 4, 4)), corner, size) == 0.0
    assert recall(TokenTrace((1, 1, 4), 4, (4, 4, 4, 4)), (), size) is None
    assert recall(None, corner, size) is None


def test_the_picture_as_the_encoder_saw_it(model: Any, processor: Any) -> None:
    """A wide picture is cropped by the processor: an overlay on the whole of it would be in the wrong place."""
    wide = EXAMPLES[0].image.resize((192, 96))
    seen = as_seen(processor, VisualPrompt.of(model, processor, Example("a", "a", wide, "what?")))
    assert seen.size == (96, 96)
    middle = wide.crop((48, 0, 144, 96))
    difference = torch.tensor(list(seen.tobytes())).float() - torch.tensor(list(middle.tobytes())).float()
    assert difference.abs().max() <= 1


def test_a_question_that_quotes_the_picture_marker_is_measured_like_others(
    model: Any, processor: Any, calls: dict[str, list[str]], tmp_path: Path
) -> None:
    texts = ("is there a cat?", "what does <image> mean?", "how many things?<eos>")
    examples = [replace(EXAMPLES[0], id=str(i), question=text) for i, text in enumerate(texts)]
    for measured in (True, False):  # and known again on resuming
        calls["answer"].clear()
        found = compare(model, processor, examples, [], ["50%"], out=tmp_path, **SHORT)
        assert [(r.method, r.examples, r.refusal) for r in found.rows] == [
            ("none", 3, None),
            ("random", 3, None),
            ("pool", 3, None),
        ]
        assert bool(calls["answer"]) == measured
        assert {r.full_tokens for r in found.results.results} == {144}


def test_any_of_several_references_is_right(model: Any, processor: Any, tmp_path: Path) -> None:
    one = EXAMPLES[0]
    first = compare(model, processor, [one], [], ["50%"], out=tmp_path / "once", **SHORT)
    said = next(r.answer for r in first.results.results if r.method == "none")
    several = replace(one, answer="no", answers=("no", "no", said))
    wrong = replace(one, id="b", answer="no", answers=("no", "maybe"))
    found = compare(model, processor, [several, wrong], [], ["50%"], out=tmp_path / "two", **SHORT)
    (right, false) = (r for r in found.results.results if r.method == "none")
    assert (right.score, right.truth) == (1.0, f"no / {said}")
    assert (false.score, false.truth) == (0.0, "no / maybe")
    other = measure.item_digest(replace(several, answers=("no", said)))
    assert measure.item_digest(several) != other, "other references, another question"
