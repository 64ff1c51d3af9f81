"""Methods with weights of their own: kept whole, taught through the model that they serve."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Int
from torch import Tensor, nn

import tokenry as tk
from tests.hosts.families import FAMILIES
from tokenry.reduce.trained import TrainedReducer
from tokenry.tokens import BudgetLike, InputError, Reduction, TokenryError, TokenView, UnsupportedError


@dataclass(frozen=True, kw_only=True)
class Gate(TrainedReducer):
    """Scores tokens by a linear map, and lets the model teach it by what the kept ones are worth."""

    slug: ClassVar[str] = "gate"
    differentiable: ClassVar[bool] = True

    budget: BudgetLike = 0.5
    width: int = 32
    cut: int = 0

    def cuts(self, depth: Any) -> tuple[int, ...]:
        return (self.cut,)

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Linear(self.width, 1)

    def reduce(self, view: TokenView, keep: Int[Tensor, " items"]) -> Reduction:
        scores = self.weights(view.features.float())[..., 0]
        return Reduction.top(scores, keep, view.length).gated(scores.sigmoid())


def trained(seed: int = 1, **settings: Any) -> Gate:
    method = Gate(**settings)
    torch.manual_seed(seed)
    nn.init.normal_(method.weights.weight)
    return method


def test_settings_and_weights_come_back(tmp_path: Path) -> None:
    method = trained(budget=7)
    again = Gate.from_pretrained(method.save_pretrained(tmp_path / "gate"))
    assert again == method
    assert again.fingerprint == method.fingerprint != Gate(budget=7).fingerprint
    view = TokenView.of(torch.randn(2, 12, 32))
    assert again.apply(view).group.equal(method.apply(view).group)


class Tempered(nn.Linear):
    """A linear map with a temperature, which is a single number."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        self.temperature = nn.Parameter(torch.tensor(2.0))


@dataclass(frozen=True, kw_only=True)
class TemperedGate(Gate):
    slug: ClassVar[str] = "tempered-gate"

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Tempered(self.width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_numbers_and_half_precision_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    method = TemperedGate(budget=7)
    method.weights.to(dtype)
    again = TemperedGate.from_pretrained(method.save_pretrained(tmp_path / "gate"))
    assert again.fingerprint == method.fingerprint
    assert {part.dtype for part in again.weights.parameters()} == {dtype}
    assert all(part.requires_grad for part in again.weights.parameters())


def test_a_configuration_alone_is_not_run_with_weights_that_nobody_trained() -> None:
    with pytest.raises(TokenryError, match=r"load the folder .* Gate.from_pretrained"):
        Gate.from_json(trained().to_json())
    assert Gate.from_json({"method": "gate", "budget": 3}) == Gate(budget=3)


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    one, two = (trained(seed).save_pretrained(tmp_path / str(seed)) for seed in (1, 2))
    (one / "method.safetensors").write_bytes((two / "method.safetensors").read_bytes())
    with pytest.raises(InputError, match="one of the two files was replaced"):
        Gate.from_pretrained(one)
    settings = json.loads((two / "method.json").read_text())
    (two / "method.json").write_text(json.dumps(settings | {"width": 8}))
    with pytest.raises(InputError, match="do not fit the settings"):
        Gate.from_pretrained(two)
    with pytest.raises(InputError, match="holds no saved gate method"):
        Gate.from_pretrained(tmp_path)


@pytest.mark.parametrize("cut", [0, 2])
def test_the_model_teaches_the_gate_and_is_not_changed_by_it(cut: int) -> None:
    family = FAMILIES["llava"]
    model: Any = family.build().train()
    inputs = family.batch(model, "one")
    width = model.config.text_config.hidden_size
    method = trained(width=width, cut=cut)
    labels = inputs["input_ids"].clone()
    with tk.reduced(model, method):
        loss = model(**inputs, labels=labels).loss
    loss.backward()
    assert float(method.weights.weight.grad.abs().max()) > 0
    plain = Gate(width=width, cut=cut, network=method.network)
    object.__setattr__(plain, "differentiable", False)
    with tk.reduced(model, plain):
        assert torch.equal(model(**inputs, labels=labels).loss, loss)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_teaches_the_same_or_is_refused(reentrant: bool) -> None:
    """Older releases of transformers put the checkpoint around what a session does before a layer."""
    family = FAMILIES["llava"]
    model: Any = family.build().train()
    inputs = family.batch(model, "one")
    gradients = []
    for checkpointing in (False, True):
        method = trained(width=model.config.text_config.hidden_size, cut=2)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        try:
            with tk.reduced(model, method):
                model(**inputs, labels=inputs["input_ids"]).loss.backward()
        except UnsupportedError as error:
            assert "gradient checkpointing cuts off" in str(error)  # noqa: PT017 - either outcome is right
            return
        gradients.append(method.weights.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-9)
