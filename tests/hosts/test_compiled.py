"""Compiled models: inside a session they run reduced, and before and after it as they were compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenry as tk
from tests.hosts.families import FAMILIES, Inputs
from tests.hosts.test_families import state_of
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import UnsupportedError

METHODS: list[Reducer] = [RandomTokens(budget=0.6), FastV(budget=0.5, layer=2)]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Graphs:
    """A backend that runs graphs as they are and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, graph: Any, example: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            self.runs += 1
            return graph(*args)

        return run


def logits(call: Any, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return call(**inputs).logits


def around(model: Any, graphs: Graphs) -> Any:
    return torch.compile(model, backend=graphs)


def in_place(model: Any, graphs: Graphs) -> Any:
    model.compile(backend=graphs)
    return model


def forward(model: Any, graphs: Graphs) -> Any:
    model.forward = torch.compile(model.forward, backend=graphs)
    return model


def base_around(model: Any, graphs: Graphs) -> Any:
    model.model = torch.compile(model.model, backend=graphs)
    return model


def decoder(model: Any, graphs: Graphs) -> Any:
    model.model.language_model.forward = torch.compile(model.model.language_model.forward, backend=graphs)
    return model


def layers_in_place(model: Any, graphs: Graphs) -> Any:
    for layer in model.model.language_model.layers:
        layer.compile(backend=graphs)
    return model


def layers_around(model: Any, graphs: Graphs) -> Any:
    layers = model.model.language_model.layers
    for i, layer in enumerate(layers):
        layers[i] = torch.compile(layer, backend=graphs)
    return model


@pytest.mark.parametrize(
    "compiled", [around, in_place, forward, base_around, decoder, layers_in_place, layers_around]
)
def test_a_model_compiled_and_run_before_the_session_runs_reduced_in_it(
    compiled: Callable[[Any, Graphs], Any],
) -> None:
    family = FAMILIES["llava"]
    plain: Any = family.build()
    inputs = family.batch(plain, "one")
    full = logits(plain, inputs)
    with tk.reduced(plain, METHODS) as run:
        expected, counts = logits(plain, inputs), run.trace[0].counts
    assert 36 > counts[0] > counts[2]
    model: Any = family.build()
    graphs = Graphs()
    call = compiled(model, graphs)
    assert torch.allclose(logits(call, inputs), full, atol=1e-5)
    marks = state_of(model)
    with tk.reduced(call, METHODS) as run:
        assert torch.allclose(logits(call, inputs), expected, atol=1e-5)
        assert run.trace[0].counts == counts
    assert state_of(model) == marks
    before = graphs.runs
    assert torch.allclose(logits(call, inputs), full, atol=1e-5)
    assert graphs.runs > before  # what was compiled is in use again


def test_a_model_compiled_inside_the_block_is_plain_after_it() -> None:
    """Hooks that Dynamo traced would stay in the graph."""
    family = FAMILIES["llava"]
    model: Any = family.build()
    inputs = family.batch(model, "one")
    full = logits(model, inputs)
    with tk.reduced(model, METHODS):
        expected = logits(model, inputs)
        call: Any = torch.compile(model, backend="eager")
        assert torch.allclose(logits(call, inputs), expected, atol=1e-5)
    assert torch.allclose(logits(call, inputs), full, atol=1e-5)


def test_a_model_compiled_as_one_graph() -> None:
    """A graph in one piece has no room for a session; the model runs uncompiled meanwhile instead of failing."""
    family = FAMILIES["llama"]
    model: Any = family.build()
    inputs = family.batch(model, "one")
    with tk.reduced(model, METHODS, tokens=family.tokens):
        expected = logits(model, inputs)
    call: Any = torch.compile(model, backend="eager", fullgraph=True)
    logits(call, inputs)
    with tk.reduced(call, METHODS, tokens=family.tokens):
        assert torch.allclose(logits(call, inputs), expected, atol=1e-5)


def other_layer(model: Any, i: int) -> None:
    layers = model.model.language_model.layers
    layers[i] = copy.deepcopy(layers[i])


@pytest.mark.parametrize(
    ("method", "replace", "message"),
    [
        (
            RandomTokens(),
            lambda m: setattr(m, "model", copy.deepcopy(m.model)),
            "its base model was not reached",
        ),
        (
            RandomTokens(),
            lambda m: setattr(m.model, "language_model", copy.deepcopy(m.model.language_model)),
            "its language model was not reached",
        ),
        (RandomTokens(), lambda m: other_layer(m, 1), "layers 1 of its decoder were not reached"),
        (FastV(layer=2), lambda m: other_layer(m, 1), "Layer 1 of .* ran without its attention being heard"),
    ],
)
def test_a_call_that_goes_past_the_session_is_noticed(
    method: Reducer, replace: Callable[[Any], None], message: str
) -> None:
    family = FAMILIES["llava"]
    model: Any = family.build()
    inputs = family.batch(model, "one")
    with method(model):
        replace(model)
        with pytest.raises(UnsupportedError, match=message):
            logits(model, inputs)
