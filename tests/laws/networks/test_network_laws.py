"""Laws of every network that tokenry trains."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.laws.networks import tiny

pytestmark = pytest.mark.parametrize("name", tiny.names())


def run(subject: tiny.Subject, **changes: Any) -> Any:
    torch.manual_seed(0)  # a model may draw lots; it must draw the same ones
    with torch.no_grad():
        return subject.model(**{**subject.inputs, **changes})


def test_it_can_be_saved_and_loaded(name: str, tmp_path: Path) -> None:
    subject = tiny.build(name)
    subject.model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}
    loaded = type(subject.model).from_pretrained(tmp_path).eval()
    kept = {**loaded.config.to_dict(), "_name_or_path": ""}
    assert kept == {**type(subject.model.config).from_pretrained(tmp_path).to_dict(), "_name_or_path": ""}
    for key, value in subject.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0, msg=key)
    again = copy.copy(subject.inputs)
    expected = subject.score(run(subject))
    torch.manual_seed(0)
    with torch.no_grad():
        torch.testing.assert_close(subject.score(loaded(**again)), expected, rtol=0, atol=0)


def test_its_kind_is_tokenrys_own(name: str) -> None:
    config = tiny.build(name).model.config
    assert config.model_type.startswith("tokenry-")
    assert type(config)(**config.to_diff_dict()).to_dict() == config.to_dict()


def test_same_input_same_output(name: str) -> None:
    subject = tiny.build(name)
    torch.testing.assert_close(subject.score(run(subject)), subject.score(run(subject)), rtol=0, atol=0)


def test_same_seed_same_weights(name: str) -> None:
    first, second = tiny.build(name, 3).model.state_dict(), tiny.build(name, 3).model.state_dict()
    other = tiny.build(name, 4).model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_loss_is_finite_and_every_weight_learns(name: str) -> None:
    subject = tiny.build(name)
    subject.model.train()
    torch.manual_seed(0)
    loss = subject.model(**subject.inputs).loss
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()
    idle = [n for n, p in subject.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f"without gradient: {idle}"
    assert all(torch.isfinite(p.grad).all() for p in subject.model.parameters() if p.grad is not None)


def test_bfloat16_is_near(name: str) -> None:
    subject = tiny.build(name)
    full = run(subject).loss
    subject.model.to(torch.bfloat16)
    inputs = {
        key: value.to(torch.bfloat16) if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in subject.inputs.items()
    }
    half = run(subject, **inputs).loss
    assert torch.isfinite(half)
    assert half.float().item() == pytest.approx(full.item(), rel=0.1)


def test_a_row_does_not_see_the_other_rows(name: str) -> None:
    subject = tiny.build(name)
    together = subject.score(run(subject))
    reverse = {
        key: value.flip(0)
        for key, value in subject.inputs.items()
        if key in subject.rows and value is not None
    }
    turned = subject.score(run(subject, **reverse)).flip(0)
    torch.testing.assert_close(turned, together, rtol=1e-4, atol=1e-5)


def test_it_generates_the_same_twice(name: str) -> None:
    subject = tiny.build(name)
    if subject.generate is None:
        assert not subject.model.can_generate()
        return
    torch.manual_seed(0)
    first = subject.model.generate(**subject.generate)
    torch.manual_seed(0)
    second = subject.model.generate(**subject.generate)
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second
