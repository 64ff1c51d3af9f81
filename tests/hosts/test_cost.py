"""Costs that are counted equal what torch's FLOP counter and the cache itself say.

Models run eager attention here: its products are counted one by one, while the counter has no entry for the fused
kernel that sdpa takes on a CPU. They multiply the same matrices.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tokenry as tk
from tests.hosts.families import FAMILIES
from tokenry.hosts import decoder_flops, encoder_flops, kv_bytes
from tokenry.hosts.host import Host
from tokenry.hosts.upstream import cache_of
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens

NAMES = ("llava", "qwen2-vl", "qwen3-vl", "smolvlm", "llama", "qwen3", "gemma3-text")


def measure(model: Any, **inputs: Any) -> tuple[int, Any]:
    """FLOPs of decoder and head for one call, and what it returned."""
    host = Host.of(model)
    counter = FlopCounterMode(display=False)
    begun: list[int] = []
    hooks = [
        host.layers[0].register_forward_pre_hook(lambda *a: begun.append(counter.get_total_flops())),
        model.get_output_embeddings().register_forward_hook(
            lambda *a: begun.append(counter.get_total_flops())
        ),
    ]
    with counter, torch.no_grad():
        out = model(**inputs, use_cache=True, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    inside = begun[-1] - begun[0]
    return inside, out


METHODS: list[Reducer] = [
    RandomTokens(budget=1.0),
    RandomTokens(budget=0.3),
    FastV(budget=0.3, layer=2),
]


@pytest.mark.parametrize("method", METHODS, ids=["full", "input", "layer"])
@pytest.mark.parametrize("name", NAMES)
def test_decoder_flops_and_cache_bytes(name: str, method: Reducer) -> None:
    family = FAMILIES[name]
    model = family.build("eager")
    inputs = family.batch(model, "one")
    if name == "gemma3-text" and method.budget != tk.Budget.of(1.0):
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with tk.reduced(model, RandomTokens(budget=1.0), tokens=family.tokens), torch.no_grad():
        model(**inputs)  # whatever is set up at the first call
    with tk.reduced(model, method, tokens=family.tokens) as run:
        flops, out = measure(model, **inputs)
        lengths = run.lengths
    host = Host.of(model)
    selection = 0
    if method.stage == "layer":  # one row of attention read by the method: heads x tokens x width
        config = host.text_config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        selection = 2 * config.num_attention_heads * int(lengths[0, 0]) * width
    assert decoder_flops(host, lengths) == flops - selection
    assert run.cost.prefill_flops == decoder_flops(host, lengths)
    held = sum(
        layer.keys.numel() * layer.keys.element_size() + layer.values.numel() * layer.values.element_size()
        for layer in cache_of(out).layers
    )
    if name != "gemma3-text":
        assert kv_bytes(host, lengths) == held
    else:
        assert kv_bytes(host, lengths) >= held


@pytest.mark.parametrize("name", ["llava", "smolvlm"])
def test_encoder_flops(name: str) -> None:
    model: Any = FAMILIES[name].build("eager")
    inputs = FAMILIES[name].batch(model, "one")
    values = {k: v for k, v in inputs.items() if k.startswith("pixel")}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model.get_image_features(**values)
    tiles = 1 if name == "llava" else 3
    assert encoder_flops(Host.of(model), tiles) == counter.get_total_flops()


def test_packed_encoders_have_no_fixed_cost() -> None:
    assert encoder_flops(Host.of(FAMILIES["qwen2-vl"].build())) is None


def test_cost_of_a_ragged_batch_counts_tokens_not_padding() -> None:
    model = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "ragged")
    with RandomTokens(budget=0.5)(model) as run, torch.no_grad():
        model(**inputs)
    real = inputs["attention_mask"].sum(1)
    assert run.lengths[:, 0].tolist() == (real - 18).tolist()
    host = Host.of(model)
    per_row = [decoder_flops(host, run.lengths[i : i + 1]) for i in range(2)]
    assert run.cost.prefill_flops == sum(per_row)
    assert run.cost.full_kv_bytes == kv_bytes(host, real[:, None].expand(-1, 4))
    assert 0 < run.cost.flops_ratio < 1
    assert f"{100 * run.cost.kv_ratio:.0f}%" in str(run.cost)


def test_pyramid_costs_less_with_depth() -> None:
    model = FAMILIES["llava"].build()
    inputs = FAMILIES["llava"].batch(model, "one")
    with PyramidDrop(budget=0.125)(model) as run, torch.no_grad():
        model(**inputs)
    assert run.trace[0].counts == [36, 18, 9, 5]
