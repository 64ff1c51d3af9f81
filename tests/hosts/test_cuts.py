"""What happens at a cut: several methods at one layer, text and attention after tokens have left, padding, order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import FAMILIES, IMAGE, Inputs
from tests.hosts.test_outputs import left
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Depth, Needs, Positions, Reduction, ReductionError, Stage, TokenView

TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class _AtLayer(Reducer):
    """Methods of this file, acting before layer 2."""

    stage: ClassVar[Stage] = Stage.LAYER
    slug: ClassVar[str] = "at-layer"
    budget: Any = 0.5

    def cuts(self, depth: Depth) -> tuple[int, ...]:
        return (2,)


@dataclass(frozen=True, kw_only=True)
class EverySecond(_AtLayer):
    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        index = torch.arange(view.features.shape[1]).expand(view.features.shape[:2])
        return Reduction.from_mask((index % 2 == 0) & view.valid, view.length)


@dataclass(frozen=True, kw_only=True)
class MergePairs(_AtLayer):
    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        index = torch.arange(view.features.shape[1]).expand(view.features.shape[:2])
        return Reduction.merge((index // 2).masked_fill(~view.valid, -1), length=view.length)


@dataclass(frozen=True, kw_only=True)
class Reversed(Reducer):
    slug: ClassVar[str] = "reversed"
    budget: Any = 0.5

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        return Reduction.select(torch.tensor([[7, 5, 2]] * len(view.length)), view.length)


@functools.cache
def built(family: str, attn: str = "sdpa") -> PreTrainedModel:
    return FAMILIES[family].build(attn)


def scale(model: Any, inputs: Inputs) -> float:
    with torch.no_grad():
        return float(model(**inputs).logits.abs().max())


def last_row(model: Any, inputs: Inputs, layer: int) -> Tensor:
    """The attention that the last token of a prompt gives in a layer, mean over heads: [b, t], by the full matrix."""
    with torch.no_grad():
        return model(**inputs, output_attentions=True).attentions[layer][:, :, -1].mean(1)


# --- several methods at one layer ------------------------------------------------------------------------------------

CHAINS: dict[str, list[Reducer]] = {
    "fastv+fastv": [FastV(budget=0.5, layer=2), FastV(budget=0.4, layer=2)],
    "select+pyramiddrop": [EverySecond(), PyramidDrop(budget=0.4, layers=(2,))],
    "compact+keep": [EverySecond(positions="compact"), FastV(budget=0.4, layer=2)],
    "merge+merge": [MergePairs(), MergePairs()],
    "merge+fastv+merge": [MergePairs(), FastV(budget=0.5, layer=2), MergePairs(positions="compact")],
    "pool+pool": [Pool(budget=0.5), Pool(budget=0.5)],
    "random+pool": [RandomTokens(budget=0.5), Pool(budget=0.5)],
}


@pytest.mark.parametrize("name", ["llava", "qwen3-vl", "gemma3"])
@pytest.mark.parametrize("chain", CHAINS)
def test_two_methods_at_one_cut_equal_the_masked_full_sequence(name: str, chain: str) -> None:
    model = built(name)
    inputs = FAMILIES[name].batch(model, "ragged")
    gap = oracle_gap(Host.of(model), inputs, CHAINS[chain], 4)
    assert gap <= TOLERANCE * scale(model, inputs)


def test_the_second_method_at_a_layer_reads_the_attention_as_it_was_executed() -> None:
    """The layer before ran on all tokens; those that have just left took their share of its softmax."""
    model: Any = built("llava", "eager")
    inputs = FAMILIES["llava"].batch(model, "one")
    row = last_row(model, inputs, 1)[0, inputs["input_ids"][0] == IMAGE]
    half = [i for i in range(36) if i % 2 == 0]
    with tk.reduced(model, [EverySecond(), FastV(budget=5, layer=2)]) as run, torch.no_grad():
        model(**inputs)
    best = sorted(sorted(half, key=lambda i: -float(row[i]))[:5])
    assert run.trace[0].kept.nonzero()[:, 0].tolist() == best


@pytest.mark.parametrize("positions", ["keep", "compact"])
def test_the_second_method_at_a_layer_sees_the_next_layer_without_what_has_left(positions: str) -> None:
    model: Any = built("llava", "eager")
    inputs = FAMILIES["llava"].batch(model, "one")
    visual, host = inputs["input_ids"] == IMAGE, Host.of(model)
    first = EverySecond(positions=positions)
    with first(model) as run, torch.no_grad():
        model(**inputs)
    with masked(host, run.trace, visual, {2: Positions(positions)}):
        row = last_row(model, inputs, 2)[0, visual[0]]
    assert not row[1::2].any()
    with tk.reduced(model, [first, PyramidDrop(budget=5, layers=(2,))]) as run, torch.no_grad():
        model(**inputs)
    assert run.trace[0].kept.nonzero()[:, 0].tolist() == sorted(row.topk(5).indices.tolist())


def test_training_with_two_methods_at_one_layer() -> None:
    """Gradient checkpointing runs the layer again, and all that was done before it."""
    gradients = []
    for checkpointing in (False, True):
        model: Any = FAMILIES["llava"].build("sdpa").train()
        inputs = FAMILIES["llava"].batch(model, "ragged")
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with tk.reduced(model, [MergePairs(), FastV(budget=0.5, layer=2), MergePairs()]):
            labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float((gradients[0] - gradients[1]).abs().max()) <= 1e-6 * float(gradients[0].abs().max())


# --- text ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReadsText(_AtLayer):
    seen: list[TokenView]

    def needs(self, layer: int, depth: Depth) -> Needs:
        return Needs(text=True)

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        self.seen.append(view)
        return Reduction.identity(view.length, view.features.shape[1])


@dataclass(frozen=True, kw_only=True)
class DropsAll(_AtLayer):
    def cuts(self, depth: Depth) -> tuple[int, ...]:
        return (1,)

    def reduce(self, view: TokenView, keep: Tensor) -> Reduction:
        return Reduction.from_mask(torch.zeros_like(view.valid), view.length)


@pytest.mark.parametrize("before", [FastV(budget=0.3, layer=1), DropsAll()], ids=["fastv", "all"])
def test_text_can_be_read_at_a_layer_after_tokens_have_left(before: Reducer) -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "ragged")
    ids, padding, host = inputs["input_ids"], inputs["attention_mask"].bool(), Host.of(model)
    visual = ids == IMAGE
    reader = ReadsText(seen=[])
    with tk.reduced(model, [before, reader]) as run, torch.no_grad():
        model(**inputs)
    with torch.no_grad(), masked(host, run.trace, visual, {1: Positions.KEEP, 2: Positions.KEEP}, padding):
        states = model(**inputs, output_hidden_states=True).hidden_states[2]
    (view,) = reader.seen
    assert view.text is not None
    assert view.text_length is not None
    for row in range(2):
        after = padding[row] & ~visual[row] & (torch.arange(ids.shape[1]) > int(visual[row].nonzero().max()))
        n = int(view.text_length[row])
        assert n == int(after.sum()) > 0
        assert float((view.text[row, :n] - states[row, after]).abs().max()) <= TOLERANCE * float(
            states.abs().max()
        )


# --- padding and order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "method",
    [RandomTokens(budget=0.4), FastV(budget=0.3, layer=2), PyramidDrop(budget=0.3)],
    ids=lambda m: m.slug,
)
def test_padding_costs_nothing_in_a_shortened_layer_and_changes_no_logit(method: Reducer, side: str) -> None:
    model: Any = built("llava")
    host = Host.of(model)
    inputs = FAMILIES["llava"].batch(model, "ragged")
    extra = torch.zeros(2, 30, dtype=torch.long)
    order = (extra, -1) if side == "left" else (-1, extra)
    for key in ("input_ids", "attention_mask"):
        value = inputs[key]
        if side == "right":
            shift = int((inputs["attention_mask"][1] == 0).sum())
            value = torch.stack([value[0], value[1].roll(-shift)])
        inputs[key] = torch.cat([value if isinstance(part, int) else part for part in order], 1)
    padding, visual = inputs["attention_mask"].bool(), inputs["input_ids"] == IMAGE
    widths: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda m, a, k, out: widths.append(out.shape[1]), with_kwargs=True)
        for layer in host.layers
    ]
    with torch.no_grad(), method(model) as run:
        mine = model(**inputs, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    assert widths == run.lengths.max(0).values.tolist()
    assert widths[-1] < padding.sum(1).max()
    rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
    with torch.no_grad(), masked(host, run.trace, visual, rules, padding):
        truth = model(**inputs, use_cache=False).logits
    has = left(run.trace, visual, len(host.layers) - 1) & padding
    assert mine.shape == truth.shape
    assert float((mine[has] - truth[has]).abs().max()) <= TOLERANCE * float(truth.abs().max())


def test_outputs_in_another_order_than_their_anchors_are_refused() -> None:
    model: Any = built("llava")
    inputs = FAMILIES["llava"].batch(model, "one")
    message = r"reversed .* anchors of item 0 are \[7, 5, 2\].*ascending"
    with pytest.raises(ReductionError, match=message), Reversed()(model):
        model(**inputs)
