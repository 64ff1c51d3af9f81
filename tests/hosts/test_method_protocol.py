"""A session runs whatever meets the `Method` protocol, of any class and with no ancestor of tokenry's."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from tests.hosts.families import FAMILIES, IMAGE
from tokenry.hosts import Host, Session
from tokenry.hosts.reducing.oracle import masked
from tokenry.tokens import Depth, Method, Needs, Positions, Reduction, Stage, TokenView


class EveryOther:
    """Half of each picture's tokens at the way in, and the better half of those, by attention, before a later layer."""

    slug = "every-other"
    stage = Stage.LAYER
    position_rule = Positions.KEEP

    def __init__(self, layer: int, attention: str) -> None:
        self.layer, self.attention = layer, attention

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        return (0, self.layer)

    def needs(self, layer: int, depth: Depth) -> Needs:
        return Needs(attention=self.attention if layer else None)  # type: ignore[arg-type]

    def apply(self, view: TokenView) -> Reduction:
        if not view.layer:
            even = (torch.arange(view.features.shape[1]) % 2 == 0).float().expand(view.features.shape[:2])
            return Reduction.top(even, (view.length + 1) // 2, view.length)
        return Reduction.top(view.of_columns(view.attention.row().mean(1)), view.length // 2, view.length)


@pytest.mark.parametrize("attention", ["previous", "next"])
@pytest.mark.parametrize("name", ["llava", "qwen2-vl"])
def test_a_method_of_somebody_elses_class_runs_exactly(name: str, attention: str) -> None:
    model: Any = FAMILIES[name].build()
    inputs = FAMILIES[name].batch(model, "ragged")
    method, host = EveryOther(2, attention), Host.of(model)
    assert isinstance(method, Method)
    with torch.no_grad(), Session(model, [method]) as run:
        mine = model(**inputs, logits_to_keep=1).logits
    first, n = run.trace[0], run.trace[0].n
    assert first.kept_at(0).tolist() == [i % 2 == 0 for i in range(n)]
    assert first.counts == [-(-n // 2)] * 2 + [-(-n // 2) // 2] * (len(host.layers) - 2)
    rules = dict.fromkeys(method.cuts(host.depth), Positions.KEEP)
    padding = inputs["attention_mask"].bool()
    with torch.no_grad(), masked(host, run.trace, inputs["input_ids"] == IMAGE, rules, padding):
        truth = model(**inputs, logits_to_keep=1).logits
    assert torch.allclose(mine, truth, atol=1e-5 * float(truth.abs().max()))


def test_a_layer_run_for_its_queries_and_keys_alone_attends_to_nothing() -> None:
    """Neither the attention itself nor anything that was noted of it reaches the model's own pass."""
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "ragged")
    attention = model.get_decoder().layers[2].self_attn
    outputs: list[torch.Tensor] = []
    hook = attention.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    with torch.no_grad(), Session(model, [EveryOther(2, "next")]):
        model(**inputs)
    hook.remove()
    probed, run = outputs
    assert not probed.any()
    assert run.any()
    assert probed.shape[1] > run.shape[1]  # the tokens before the cut, and those after it


def test_a_session_that_nobody_keeps_stays_attached() -> None:
    model: Any = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    with torch.no_grad():
        whole = model(**inputs).logits
        Session(model, [EveryOther(2, "previous")]).attach()
        gc.collect()
        reduced = model(**inputs).logits
    assert reduced.shape == whole.shape
    assert not torch.allclose(reduced, whole)
