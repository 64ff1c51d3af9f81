"""What reproductions of reducers share: controls, recorders, FastV at given FLOPs, and the time of a training step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reproductions.reduce.arms import fastv_at
from reproductions.reduce.controls import LateRandom, RandomPyramid, WithoutRecovery
from reproductions.reduce.recorders import AttentionToPicture, LeastDistance, Recovery
from reproductions.reduce.step_times import step_times
from tests.bench.reproduce.conftest import lab, tiny
from tokenry.bench.reproduce import Questions, VqaLab
from tokenry.bench.testbeds import LeastByCls
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.recoverable_compression import RecoverableCompression
from tokenry.tokens import Depth, InputError, TokenView

__all__ = ["lab", "tiny"]


def view(features: torch.Tensor, **parts: Any) -> TokenView:
    return TokenView.of(features, depth=Depth(encoder=3, decoder=8), **parts)


def test_reverse_keeps_what_cls_top_k_drops() -> None:
    rows = {1: torch.tensor([[[0.1, 0.4, 0.2, 0.3]]])}
    seen = view(torch.randn(1, 4, 3), cls_rows=rows)
    kept = FasterVLM(budget=2).apply(seen).kept
    assert (LeastByCls(budget=2).apply(seen).kept == ~kept).all()


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
    recorder = Recovery(of=RecoverableCompression(budget=20))
    figures = recorder.read(seen)
    salient, _ = recorder.of.salient(seen)
    assert torch.equal(figures["salient"] == 1, salient)
    assert not ((figures["recovered"] == 1) & salient).any()


def test_the_least_distance_is_that_of_the_nearest_pair() -> None:
    angles = torch.tensor([[0.0, 10.0, 90.0, 200.0], [0.0, 90.0, 0.0, 0.0]]).deg2rad()
    seen = view(torch.stack([angles.cos(), angles.sin()], 2), length=torch.tensor([4, 2]))
    recorder = LeastDistance()
    assert recorder.apply(seen).is_identity
    ((name, values),) = recorder.log
    assert name == "least distance"
    torch.testing.assert_close(values, torch.tensor([1 - math.cos(math.radians(10)), 1.0]), atol=1e-5, rtol=0)
    assert "log" not in recorder.to_json()


def test_attention_to_the_picture_is_that_of_the_eager_model(tiny: tuple[Any, Any], lab: VqaLab) -> None:
    chain = (AttentionToPicture(), AttentionToPicture(which="next"))
    readings = lab.ask({"full": [chain]}, Questions((5,), 2, 1))["full"].readings
    model, _ = tiny
    (round_,) = lab.sets.get(Questions((5,), 2, 1), 5).rounds
    inputs = lab.sets.get(Questions((5,), 2, 1), 5).encoded.inputs | round_.inputs
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


def test_fastv_is_given_the_first_budget_that_costs_no_less(lab: VqaLab) -> None:
    flops = lab.visual_flops([60] * 8)
    method = fastv_at(lab, flops, 2, 144)
    k = int(str(method.budget))
    assert lab.visual_flops([144] * 2 + [k] * 6) >= flops > lab.visual_flops([144] * 2 + [k - 1] * 6)
    with pytest.raises(InputError, match="cannot meet"):
        fastv_at(lab, lab.visual_flops([30] * 8), 2, 144)


def test_a_training_step_on_fewer_tokens_is_timed_and_leaves_the_model_alone(lab: VqaLab) -> None:
    before = [p.clone() for p in lab.model.parameters()]
    times = step_times(lab, PyramidDrop(layers=(2, 4, 6)), 5, steps=2, warmup=1, batch=2)
    assert len(times.reduced) == len(times.full) == 2
    assert times.ratio > 0  # how much is for the benchmark to say: a loaded machine may show anything
    assert times.to_json()["pairs of steps"] == 2
    assert all(torch.equal(a, b) for a, b in zip(before, lab.model.parameters(), strict=True))
    assert all(p.grad is None for p in lab.model.parameters())
    assert not lab.model.training
