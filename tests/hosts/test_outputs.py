"""Hidden states and attentions of a shortened decoder: of full length, and equal to the masked sequence's."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.hosts.families import FAMILIES, IMAGE
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.hosts.trace import ItemTrace
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Positions

METHODS: list[Reducer] = [
    FastV(budget=0.25, layer=2),
    PyramidDrop(budget=0.3),
    RandomTokens(budget=0.4),
    Pool(budget=0.4),
]


@functools.cache
def built(family: str) -> PreTrainedModel:
    return FAMILIES[family].build("eager")


def left(trace: list[ItemTrace], visual: Tensor, layer: int) -> Tensor:
    """Columns that a layer has, by the trace: text, and the pictures' anchors."""
    keep = torch.ones_like(visual)
    begun = [0] * len(visual)
    for item in trace:
        columns = visual[item.row].nonzero()[:, 0][begun[item.row] : begun[item.row] + item.n]
        begun[item.row] += item.n
        gone = torch.ones(item.n, dtype=torch.bool)
        gone[item.reduction(layer).anchor[0]] = False
        keep[item.row, columns[gone]] = False
    return keep


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "gemma3"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.slug)
def test_each_layer_has_its_own_columns_and_zeros_elsewhere(name: str, method: Reducer) -> None:
    model: Any = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    asked = dict(output_hidden_states=True, output_attentions=True, use_cache=False)
    ids, padding = inputs["input_ids"], inputs["attention_mask"].bool()
    visual, host = ids == IMAGE, Host.of(model)
    with torch.no_grad(), method(model) as run:
        mine = model(**inputs, **asked)
    rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
    with torch.no_grad(), masked(host, run.trace, visual, rules, padding):
        truth = model(**inputs, **asked)
    depth = len(host.layers)
    assert len(mine.hidden_states) == len(truth.hidden_states) == depth + 1
    assert len(mine.attentions) == len(truth.attentions) == depth
    for i, (state, full) in enumerate(zip(mine.hidden_states, truth.hidden_states, strict=True)):
        has = left(run.trace, visual, max(0, i - 1)) & padding
        assert state.shape == full.shape == (*ids.shape, host.text_config.hidden_size)
        assert close(state[has], full[has]), i
        assert not state[~has].any()
    for i, (attention, full) in enumerate(zip(mine.attentions, truth.attentions, strict=True)):
        has = left(run.trace, visual, i) & padding
        both = (has[:, None, :, None] & has[:, None, None, :]).expand_as(full)
        assert attention.shape == full.shape == (len(ids), 4, ids.shape[1], ids.shape[1])
        assert close(attention[both], full[both]), i
        assert not attention[~both].any()


def test_a_decoding_step_attends_over_all_that_was_seen() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    visual, host, method = inputs["input_ids"] == IMAGE, Host.of(model), FastV(budget=0.25, layer=2)

    def step() -> Any:
        with torch.no_grad():
            cache = cache_of(model(**inputs, use_cache=True))
            one = torch.tensor([[9]])
            return model(one, **with_cache(model, cache), output_hidden_states=True, output_attentions=True)

    with method(model) as run:
        mine = step()
    with masked(host, run.trace, visual, {2: Positions.KEEP}):
        truth = step()
    for i, (attention, full) in enumerate(zip(mine.attentions, truth.attentions, strict=True)):
        has = torch.nn.functional.pad(left(run.trace, visual, i), (0, 1), value=True)[0]
        assert attention.shape == full.shape == (1, 4, 1, visual.shape[1] + 1)
        assert close(attention, full)
        assert not attention[..., ~has].any()
    for state, full in zip(mine.hidden_states, truth.hidden_states, strict=True):
        assert close(state, full)


def test_only_the_hidden_states_that_were_asked_for_come_back() -> None:
    model: Any = built("llama")
    inputs = FAMILIES["llama"].batch(model, "one")
    shapes = []
    for share in (1.0, 0.3):
        with torch.no_grad(), FastV(budget=share, layer=2)(model, tokens=FAMILIES["llama"].tokens):
            states = model(**inputs, output_hidden_states=[0, -1]).hidden_states
        shapes.append([None if s is None else s.shape for s in states])
    with torch.no_grad():
        plain = model(**inputs, output_hidden_states=[0, -1]).hidden_states
    assert shapes == [[None if s is None else s.shape for s in plain]] * 2


def test_tuples_are_laid_out_too() -> None:
    model: Any = built("llama").base_model
    inputs = FAMILIES["llama"].batch(model, "one")
    shapes = []
    for open_session in (False, True):
        session = FastV(budget=0.3, layer=2)(model, tokens=FAMILIES["llama"].tokens)
        if open_session:
            session.__enter__()
        with torch.no_grad():
            out = model(**inputs, output_hidden_states=True, output_attentions=True, return_dict=False)
        shapes.append([[tuple(t.shape) for t in part] for part in out if isinstance(part, tuple)])
    session.__exit__()
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 2
