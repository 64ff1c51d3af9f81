"""Reproductions: recipes, verdicts, answer sheets, controls and gauges, and every experiment on a tiny random model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration
from typer.testing import CliRunner

from tokenry.bench import reproduce as package
from tokenry.bench.lines import digest
from tokenry.bench.reproduce import Criterion, Lab, Questions, Recipe, Reproduction, find, reproduce, systems
from tokenry.bench.reproduce.controls import (
    AttentionToPicture,
    LateRandom,
    LeastDistance,
    RandomPyramid,
    Recovery,
    ReverseCls,
    WithoutRecovery,
)
from tokenry.bench.reproduce.figure import Figure
from tokenry.bench.reproduce.recipe import recipe_folder
from tokenry.bench.reproduce.sheet import Sheet, mean_over, points
from tokenry.bench.reproduce.training import step_times
from tokenry.bench.reproduce.verdict import judge
from tokenry.catalog import results
from tokenry.cli.main import app
from tokenry.models.vlm.embedded.model import build_config, build_processor
from tokenry.reduce.aim import AIM
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.reduce.session import reduced
from tokenry.tokens import Depth, InputError, TokenryError, TokenView, UnknownNameError

TINY = {"tower_width": 24, "tower_layers": 5, "tower_heads": 2, "width": 32, "layers": 8, "heads": 2, "kv_heads": 1,
        "feed_forward": 256}  # fmt: skip
ASKING = tuple(slug for slug in systems() if find(slug).recipe.questions is not None)
STUDIES = tuple(slug for slug in systems() if slug not in ASKING)
FEW = Questions((5, 6), pictures=2, per_picture=2)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    processor = build_processor()
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(build_config(processor, **TINY)).eval(), processor


@pytest.fixture
def lab(tiny: tuple[Any, Any]) -> Lab:
    return Lab(*tiny, name="tiny")


def make_sheet(correct: list[float], pictures: int = 2, seeds: list[int] | None = None) -> Sheet:
    n = len(correct)
    return Sheet(
        correct=np.array(correct, dtype=np.float64),
        objects=np.linspace(0, 1, n),
        asked=np.full(n, np.nan),
        counts=np.full((n, 4), 9.0),
        text=np.full(n, 3.0),
        seeds=np.array(seeds or [0] * n),
        kinds=tuple("ab"[i % 2] for i in range(n)),
        pictures=tuple(f"p{i % pictures}" for i in range(n)),
        answers=tuple(f"say {i}" for i in range(n)),
        readings={"distance": np.arange(n, dtype=np.float32)},
        seconds=2.5,
    )


# --- recipes and verdicts ---------------------------------------------------------------------------------------------


def test_every_system_with_an_experiment_has_a_recipe_and_the_other_way_round() -> None:
    assert systems() == tuple(sorted(path.stem for path in recipe_folder().glob("*.yaml")))
    for slug in systems():
        recipe = Recipe.load(recipe_folder() / f"{slug}.yaml")
        assert recipe.claim
        assert recipe.questions is None or len(recipe.seeds) >= 3


@pytest.mark.parametrize("slug", systems())
def test_a_committed_result_was_measured_with_the_committed_recipe(slug: str) -> None:
    plan = find(slug)
    if not plan.path.exists():
        pytest.skip(f"{slug} has no committed result")
    values = results.read(plan.path).values
    assert values["settings hash"] == digest(plan.recipe.to_json())
    figures = {c.name: Figure(values["criteria"][c.means]["value"]) for c in plan.recipe.criteria}
    assert values["verdict"] == judge(plan.recipe.criteria, figures, "by seed")[0]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((1, 1), "shown"), ((1, 0), "partly"), ((0, 1), "not shown"), ((0, 0), "not shown")],
)
def test_the_verdict_rests_on_decisive_criteria(values: tuple[float, float], verdict: str) -> None:
    criteria = (
        Criterion("a", "at_least", 1, "a is large", decisive=True),
        Criterion("b", "above", 0.5, "b is large"),
    )
    found, judged = judge(criteria, {"a": Figure(values[0]), "b": Figure(values[1])}, "by seed")
    assert found == verdict
    assert judged["a is large"] == {
        "holds": values[0] == 1,
        "at least": 1,
        "decisive": True,
        "value": values[0],
    }


def test_bounds_are_read_literally_and_not_a_number_never_holds() -> None:
    assert Criterion("x", "at_least", 2, "").holds(2.0)
    assert Criterion("x", "at_most", 2, "").holds(2.0)
    assert not Criterion("x", "above", 2, "").holds(2.0)
    for kind in ("at_least", "at_most", "above"):
        assert not Criterion("x", kind, 2, "").holds(math.nan)


def test_a_criterion_about_nothing_that_was_measured_is_refused() -> None:
    with pytest.raises(InputError, match="speed"):
        judge((Criterion("speed", "above", 0, "fast", decisive=True),), {"accuracy": Figure(1.0)}, "by seed")


@pytest.mark.parametrize(
    "text",
    [
        "claim: c",
        "{",
        "claim: c\nquestions: {seeds: []}\nsettings: {}\ncriteria: {x: {above: 0, means: m, decisive: true}}",
        "claim: c\nquestions: {seeds: [1]}\nsettings: {}\ncriteria: {x: {above: 0, means: m}}",
        "claim: c\nquestions: {seeds: [1]}\nsettings: {}\ncriteria: {x: {above: 0, at_most: 1, means: m}}",
        "claim: c\nquestions: {seeds: [1], picture: 3}\nsettings: {}\ncriteria: {}",
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fastv.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        find("fastv", recipes=tmp_path)


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="fastv"):
        find("fastw")
    with pytest.raises(InputError, match="no reproduction"):
        find("pool")


# --- sheets -----------------------------------------------------------------------------------------------------------


def test_a_sheet_is_kept_whole_and_a_damaged_one_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.safetensors"
    assert Sheet.load(path) is None
    sheet = make_sheet([1, 0, 1, 1])
    sheet.save(path)
    again = Sheet.load(path)
    assert again is not None
    for name in ("correct", "objects", "asked", "counts", "text", "seeds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sheet, name))
    assert (again.kinds, again.pictures, again.answers) == (sheet.kinds, sheet.pictures, sheet.answers)
    assert again.seconds == 2.5
    np.testing.assert_array_equal(again.readings["distance"], sheet.readings["distance"])
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]
    path.write_bytes(path.read_bytes()[:-20])
    assert Sheet.load(path) is None


def test_sheets_are_joined_and_averaged() -> None:
    a, b = make_sheet([1, 0]), make_sheet([0, 0], seeds=[1, 1])
    joined = Sheet.join([a, b])
    assert joined.correct.tolist() == [1, 0, 0, 0]
    assert joined.seeds.tolist() == [0, 0, 1, 1]
    mean = Sheet.mean([a, b])
    assert mean.correct.tolist() == [0.5, 0]
    assert mean.seeds.tolist() == [0, 0]
    assert joined.by_kind() == {"a": 0.5, "b": 0.0}


def test_figures_are_paired_differences_in_points_by_set_of_questions() -> None:
    a, b = make_sheet([1, 1, 1, 0], seeds=[1, 1, 2, 2]), make_sheet([0, 1, 0, 0], seeds=[1, 1, 2, 2])
    figure = points(a, b)
    assert figure.value == 50
    assert figure.by_seed == (50, 50)
    assert figure.low is not None
    assert figure.low <= 50 <= (figure.high or 0)
    assert points(a, b, where=np.array([False, True, False, True])).value == 0
    assert figure.over(2).value == 25
    nothing = mean_over(a, a.asked)
    assert math.isnan(nothing.value)
    assert nothing.to_json()["value"] is None


# --- controls and gauges ----------------------------------------------------------------------------------------------


def view(features: torch.Tensor, **parts: Any) -> TokenView:
    return TokenView.of(features, depth=Depth(encoder=3, decoder=8), **parts)


def test_reverse_keeps_what_cls_top_k_drops() -> None:
    rows = {1: torch.tensor([[[0.1, 0.4, 0.2, 0.3]]])}
    seen = view(torch.randn(1, 4, 3), cls_rows=rows)
    kept = FasterVLM(budget=2).apply(seen).kept
    assert (ReverseCls(budget=2).apply(seen).kept == ~kept).all()


def test_a_late_random_drop_cuts_where_fastv_does() -> None:
    depth = Depth(encoder=3, decoder=8)
    assert LateRandom(layer=2, budget=0.5).cuts(depth) == FastV(layer=2).cuts(depth)
    random, pyramid = RandomPyramid(layers=(2, 4, 6)), PyramidDrop(layers=(2, 4, 6))
    assert random.cuts(depth) == pyramid.cuts(depth)
    first, second = (random.score(replace(view(torch.randn(1, 50, 3)), layer=layer)) for layer in (2, 4))
    assert not torch.equal(first, second)


def test_without_recovery_has_as_many_tokens_and_recovers_none() -> None:
    torch.manual_seed(0)
    rows = {1: torch.rand(1, 1, 60)}
    text, length = torch.randn(1, 3, 8), torch.tensor([3])
    seen = view(torch.randn(1, 60, 8), cls_rows=rows, text=text, text_length=length)
    plain = WithoutRecovery(budget=20)
    assert int(plain.apply(seen).count) == int(RecoverableCompression(budget=20).apply(seen).count) == 20
    assert not plain.recovered(seen, plain.salient(seen)[0])[0].any()
    gauge = Recovery(of=RecoverableCompression(budget=20))
    figures = gauge.read(seen)
    salient, _ = gauge.of.salient(seen)
    assert torch.equal(figures["salient"] == 1, salient)
    assert not ((figures["recovered"] == 1) & salient).any()


def test_the_least_distance_is_that_of_the_nearest_pair() -> None:
    angles = torch.tensor([[0.0, 10.0, 90.0, 200.0], [0.0, 90.0, 0.0, 0.0]]).deg2rad()
    seen = view(torch.stack([angles.cos(), angles.sin()], 2), length=torch.tensor([4, 2]))
    gauge = LeastDistance()
    assert gauge.apply(seen).is_identity
    ((name, values),) = gauge.log
    assert name == "least distance"
    torch.testing.assert_close(values, torch.tensor([1 - math.cos(math.radians(10)), 1.0]), atol=1e-5, rtol=0)
    assert "log" not in gauge.to_json()


def test_attention_to_the_picture_is_that_of_the_eager_model(tiny: tuple[Any, Any], lab: Lab) -> None:
    chain = (AttentionToPicture(), AttentionToPicture(which="next"))
    readings = lab.ask({"full": [chain]}, Questions((5,), 2, 1))["full"].readings
    model, _ = tiny
    (round_,) = lab._set(Questions((5,), 2, 1), 5).rounds
    inputs = lab._set(Questions((5,), 2, 1), 5).encoded.inputs | round_.inputs
    visual = inputs["input_ids"] == model.config.image_token_id
    text = (visual.cumsum(1) > 0) & ~visual
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            attentions = model(**inputs, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    assert len(readings) == len(attentions) == 8
    for i, attention in enumerate(attentions):
        mass = (attention.mean(1) * visual[:, None, :]).sum(2)
        expected = (mass * text).sum(1) / text.sum(1)
        np.testing.assert_allclose(readings[f"attention in layer {i}"], expected.numpy(), atol=1e-4)


# --- the lab ----------------------------------------------------------------------------------------------------------


def test_answers_are_the_models_own_and_a_full_budget_changes_nothing(
    tiny: tuple[Any, Any], lab: Lab
) -> None:
    sheets = lab.ask(
        {"full": [()], "all": [(FasterVLM(budget=1.0),)], "quarter": [(FasterVLM(budget=0.25),)]}, FEW
    )
    full, quarter = sheets["full"], sheets["quarter"]
    assert sheets["all"].answers == full.answers
    assert full.counts.tolist() == [[144.0] * 8] * 8
    assert quarter.counts.tolist() == [[36.0] * 8] * 8
    assert full.objects.tolist() == [1.0] * 8
    assert 0 <= float(np.nanmean(quarter.objects)) < 1
    assert full.seeds.tolist() == [5] * 4 + [6] * 4
    examples, asked = lab.patches(FEW)
    assert [e.picture for e in examples] == list(full.pictures)
    assert asked.shape == (8, 144)
    model, processor = tiny
    for i in (0, 7):  # one by one, without padding
        inputs = processor(
            images=examples[i].image, text=f"<image>\n{examples[i].question}", return_tensors="pt"
        )
        ids = model.generate(**inputs, max_new_tokens=2, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        assert full.answers[i].startswith(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())


def test_what_was_answered_is_not_asked_again(
    tiny: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {"some": [(FasterVLM(budget=9),)]}
    first = Lab(*tiny, cache=tmp_path).ask(arms, FEW)["some"]
    assert len(list(tmp_path.iterdir())) == len(FEW.seeds)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny[0], "generate", refuse)
    again = Lab(*tiny, cache=tmp_path).ask(arms, FEW)["some"]
    assert again.answers == first.answers
    with pytest.raises(KeyboardInterrupt):
        Lab(*tiny, cache=tmp_path).ask({"other": [(FasterVLM(budget=10),)]}, FEW)


def test_fastv_is_given_the_first_budget_that_costs_no_less(lab: Lab) -> None:
    flops = lab.visual_flops([60] * 8)
    method = lab.fastv_at(flops, 2, 144)
    k = int(str(method.budget))
    assert lab.visual_flops([144] * 2 + [k] * 6) >= flops > lab.visual_flops([144] * 2 + [k - 1] * 6)
    with pytest.raises(InputError, match="cannot meet"):
        lab.fastv_at(lab.visual_flops([30] * 8), 2, 144)


def test_shares_of_flops_agree_with_the_session(tiny: tuple[Any, Any], lab: Lab) -> None:
    one = Questions((5,), 2, 1)
    sheets = lab.ask({"full": [()], "aim": [(AIM(budget=0.5, start=3, end=6),)]}, one)
    assert sheets["aim"].counts[0].tolist() == [72, 72, 72, 72, 54, 36, 18, 0]
    asked = lab._set(one, 5)
    with (
        reduced(tiny[0], AIM(budget=0.5, start=3, end=6), encoded=asked.encoded) as run,
        torch.no_grad(),
    ):
        tiny[0](**asked.encoded.inputs | asked.rounds[0].inputs)
    assert lab.share_of_flops(sheets["aim"], sheets["full"], visual=False) == pytest.approx(
        run.cost.flops_ratio
    )


def test_a_training_step_on_fewer_tokens_is_timed_and_leaves_the_model_alone(lab: Lab) -> None:
    before = [p.clone() for p in lab.model.parameters()]
    times = step_times(lab, PyramidDrop(layers=(2, 4, 6)), 5, steps=2, warmup=1, batch=2)
    assert len(times.reduced) == len(times.full) == 2
    assert 0 < times.ratio < 10
    assert times.to_json()["pairs of steps"] == 2
    assert all(torch.equal(a, b) for a, b in zip(before, lab.model.parameters(), strict=True))
    assert all(p.grad is None for p in lab.model.parameters())
    assert not lab.model.training


# --- the experiments --------------------------------------------------------------------------------------------------


@pytest.mark.packages
@pytest.mark.slow
@pytest.mark.parametrize("slug", STUDIES)
def test_every_study_runs_and_writes_a_result_that_the_catalogue_reads(slug: str, tmp_path: Path) -> None:
    plan = find(slug, out=tmp_path)
    done = reproduce(replace(plan, recipe=plan.recipe.rehearsal()), cache=tmp_path / "cache")
    read = results.read(tmp_path / f"{slug}.json")
    assert read.verdict == done.verdict
    assert set(read.values["criteria"]) == {c.means for c in plan.recipe.criteria}
    assert read.values["metric"]
    assert list(read.rows())


@pytest.mark.slow
@pytest.mark.parametrize("slug", ASKING)
def test_every_experiment_runs_and_writes_a_result_that_the_catalogue_reads(
    slug: str, lab: Lab, tmp_path: Path
) -> None:
    plan = find(slug, out=tmp_path)
    settings = dict(plan.recipe.settings) | {"random_seeds": [0]}
    if "training" in settings:
        settings["training"] = {"steps": 1, "warmup": 0, "batch": 2}
    recipe = replace(plan.recipe, questions=Questions((5,), 2, 1), settings=settings)
    done = reproduce(replace(plan, recipe=recipe), lab)
    assert isinstance(done, Reproduction)
    read = results.read(tmp_path / f"{slug}.json")
    assert read.verdict == done.verdict
    assert set(read.values["criteria"]) == {c.means for c in recipe.criteria}
    assert all(len(row) == 5 for row in read.values["arms"].values())
    assert list(read.rows())


def test_an_interrupted_reproduction_leaves_no_half_result_and_goes_on(
    tiny: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = find("aim", out=tmp_path / "out")
    settings = dict(plan.recipe.settings) | {"random_seeds": [0]}
    plan = replace(plan, recipe=replace(plan.recipe, questions=Questions((5,), 2, 1), settings=settings))
    ask: Callable[..., Any] = tiny[0].generate
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return ask(*args, **kwargs)

    monkeypatch.setattr(tiny[0], "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, Lab(*tiny, cache=tmp_path / "cache"))
    assert not plan.path.exists()
    assert len(list((tmp_path / "cache").iterdir())) == 2
    reproduce(plan, Lab(*tiny, cache=tmp_path / "cache"))
    assert calls == 3 + 4  # six arms: two were kept, the interrupted one and three more were run
    assert [p.name for p in plan.path.parent.iterdir()] == ["aim.json"]


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="could not be written"):
        package.verdict.write({"a": 1}, tmp_path / "file" / "x.json")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "--all"), (["fastv", "--all"], "--all"), (["fastw"], "fastv"), (["pool"], "no reproduction")],
)
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["reproduce", *arguments])
    assert outcome.exit_code != 0
    assert message in outcome.output + str(outcome.exception)
    assert outcome.exit_code == 2 or isinstance(outcome.exception, TokenryError)
