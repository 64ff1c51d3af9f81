"""Questions put to the embedded model: predictions, measurements of them, and the lab, on a tiny random model."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenry.bench.reproduce import BY_SET, Predictions, Questions, VqaLab, mean_over, points
from tokenry.data.questions import examples as asked_examples
from tokenry.data.scenes import compose, scenes, style
from tokenry.reduce.aim import AIM
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.session import reduced

FEW = Questions((5, 6), pictures=2, per_picture=2)


def make_predictions(correct: list[float], pictures: int = 2, seeds: list[int] | None = None) -> Predictions:
    n = len(correct)
    return Predictions(
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


# --- predictions ---


def test_predictions_are_kept_whole_and_damaged_ones_count_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "a.safetensors"
    assert Predictions.load(path) is None
    made = make_predictions([1, 0, 1, 1])
    made.save(path)
    again = Predictions.load(path)
    assert again is not None
    for name in ("correct", "objects", "asked", "counts", "text", "seeds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(made, name))
    assert (again.kinds, again.pictures, again.answers) == (made.kinds, made.pictures, made.answers)
    assert again.seconds == 2.5
    np.testing.assert_array_equal(again.readings["distance"], made.readings["distance"])
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]
    path.write_bytes(path.read_bytes()[:-20])
    assert Predictions.load(path) is None


def test_predictions_are_joined_and_averaged() -> None:
    a, b = make_predictions([1, 0]), make_predictions([0, 0], seeds=[1, 1])
    joined = Predictions.join([a, b])
    assert joined.correct.tolist() == [1, 0, 0, 0]
    assert joined.seeds.tolist() == [0, 0, 1, 1]
    mean = Predictions.mean([a, b])
    assert mean.correct.tolist() == [0.5, 0]
    assert mean.seeds.tolist() == [0, 0]
    assert joined.by_kind() == {"a": 0.5, "b": 0.0}


def test_points_are_paired_differences_in_points_by_set_of_questions() -> None:
    a, b = (
        make_predictions([1, 1, 1, 0], seeds=[1, 1, 2, 2]),
        make_predictions([0, 1, 0, 0], seeds=[1, 1, 2, 2]),
    )
    found = points(a, b)
    assert found.value == 50
    assert found.by_seed == (50, 50)
    assert found.low is not None
    assert found.low <= 50 <= (found.high or 0)
    assert points(a, b, where=np.array([False, True, False, True])).value == 0
    assert found.over(2).value == 25
    nothing = mean_over(a, a.asked)
    assert math.isnan(nothing.value)
    assert nothing.to_json(BY_SET)["value"] is None


# --- the lab ---


def test_answers_are_the_models_own_and_a_full_budget_changes_nothing(
    tiny: tuple[Any, Any], lab: VqaLab
) -> None:
    answered = lab.ask(
        {"full": [()], "all": [(FasterVLM(budget=1.0),)], "quarter": [(FasterVLM(budget=0.25),)]}, FEW
    )
    full, quarter = answered["full"], answered["quarter"]
    assert answered["all"].answers == full.answers
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
    first = VqaLab(*tiny, cache=tmp_path).ask(arms, FEW)["some"]
    assert len(list(tmp_path.iterdir())) == len(FEW.seeds)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny[0], "generate", refuse)
    again = VqaLab(*tiny, cache=tmp_path).ask(arms, FEW)["some"]
    assert again.answers == first.answers
    with pytest.raises(KeyboardInterrupt):
        VqaLab(*tiny, cache=tmp_path).ask({"other": [(FasterVLM(budget=10),)]}, FEW)
    source = inspect.getsource
    for module in (asked_examples, compose, scenes, style):  # the same numbers would be other questions
        monkeypatch.setattr(inspect, "getsource", lambda m, other=module: source(m) + "#" * (m is other))
        with pytest.raises(KeyboardInterrupt):
            VqaLab(*tiny, cache=tmp_path).ask(arms, FEW)


def test_shares_of_flops_agree_with_the_session(tiny: tuple[Any, Any], lab: VqaLab) -> None:
    one = Questions((5,), 2, 1)
    answered = lab.ask({"full": [()], "aim": [(AIM(budget=0.5, start=3, end=6),)]}, one)
    assert answered["aim"].counts[0].tolist() == [72, 72, 72, 72, 54, 36, 18, 0]
    asked = lab.sets.get(one, 5)
    with (
        reduced(tiny[0], AIM(budget=0.5, start=3, end=6), encoded=asked.encoded) as run,
        torch.no_grad(),
    ):
        tiny[0](**asked.encoded.inputs | asked.rounds[0].inputs)
    assert lab.share_of_flops(answered["aim"], answered["full"], visual=False) == pytest.approx(
        run.cost.flops_ratio
    )
