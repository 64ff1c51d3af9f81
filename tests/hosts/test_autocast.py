"""Sessions under autocast, as `Trainer(bf16=True)` has it: decisions in full precision, gradients for every weight."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.hosts.families import FAMILIES, IMAGE, Inputs
from tests.hosts.test_outputs import left
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.reduce import Reducer
from tokenry.reduce.aim import AIM
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.todre import ToDRE
from tokenry.tokens import Positions, TokenView

METHODS: list[Reducer] = [
    FastV(budget=0.4, layer=2),
    PyramidDrop(budget=0.3),
    AIM(),
    ToDRE(check=2, tau=0.5),
    FasterVLM(budget=0.4),
    Pool(budget=0.4),
]


@functools.cache
def built(family: str, attn: str) -> PreTrainedModel:
    return FAMILIES[family].build(attn)


def autocast(dtype: torch.dtype) -> Any:
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.slug)
def test_a_session_under_autocast_equals_the_masked_sequence_under_autocast(
    method: Reducer, dtype: torch.dtype, attn: str
) -> None:
    model: Any = built("llava", attn)
    inputs = FAMILIES["llava"].batch(model, "ragged")
    visual, padding, host = inputs["input_ids"] == IMAGE, inputs["attention_mask"].bool(), Host.of(model)
    with torch.no_grad(), autocast(dtype):
        with method(model) as run:
            mine = model(**inputs).logits.float()
        rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
        with masked(host, run.trace, visual, rules, padding):
            truth = model(**inputs).logits.float()
        full = model(**inputs).logits.float()
    has = left(run.trace, visual, len(host.layers) - 1) & padding
    gap, change = (float((mine[has] - other[has]).norm()) for other in (truth, full))
    assert gap <= 2 * torch.finfo(dtype).eps * float(truth[has].norm())
    assert change > 4 * gap


class _Recorded(FastV):
    """FastV that notes the logits of its row, as the layer's queries and keys make them in float64."""

    rows: ClassVar[list[tuple[Tensor, TokenView]]] = []

    def score(self, view: TokenView) -> Tensor:
        attention: Any = view._attention
        heads = attention.query.shape[1]
        keys = attention.key.double().repeat_interleave(heads // attention.key.shape[1], 1)
        logits = (attention.query[:, :, -1:].double() @ keys.mT * attention.scale)[:, :, 0]
        logits = logits.masked_fill(~attention.real[:, None], -torch.inf)
        self.rows.append((logits.softmax(-1).mean(1), view))
        return super().score(view)


def test_rows_of_attention_are_read_in_full_precision() -> None:
    """The layer's queries and keys were made in half precision; what is made of them is not: close choices stand."""
    model: Any = built("llava", "sdpa")
    inputs = FAMILIES["llava"].batch(model, "ragged")
    method = _Recorded(budget=0.4, layer=2)
    method.rows.clear()
    with torch.no_grad(), autocast(torch.bfloat16), method(model) as run:
        model(**inputs)
    ((exact, view),) = method.rows
    for item in run.trace:
        scores = exact[item.row][view.slot[item.index, : item.n]]
        k = int(item.kept.sum())
        assert item.kept.nonzero()[:, 0].tolist() == sorted(scores.topk(k).indices.tolist())


def test_cls_rows_are_read_in_full_precision() -> None:
    """The recorded row of [CLS] equals that of its own queries and keys in float64."""
    from tokenry.hosts.reducing.attention import cls_logits

    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 4, 37, 8, generator=generator).bfloat16() for _ in range(2))
    with autocast(torch.bfloat16):
        rows = cls_logits(query, key, 0.35).softmax(-1)[..., 1:]
    exact = (query[:, :, 0:1].double() @ key.double().mT * 0.35).softmax(-1)[:, :, 0, 1:]
    assert rows.dtype == torch.float32
    assert float((rows - exact).abs().max()) <= 1e-6


def step(model: Any, inputs: Inputs, dtype: torch.dtype) -> dict[str, Tensor]:
    model.zero_grad()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[torch.arange(2), inputs["attention_mask"].argmax(1)] = -100
    with autocast(dtype):
        loss = model(**inputs, labels=labels, use_cache=False).loss
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "method", [FastV(budget=0.4, layer=2), PyramidDrop(budget=0.3), AIM()], ids=lambda m: m.slug
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_under_autocast_teaches_every_weight(method: Reducer, checkpointing: bool) -> None:
    """Also those whose half-precision copies were made first without a gradient, while tokens were chosen."""
    model: Any = FAMILIES["llava"].build("sdpa").train()
    inputs = FAMILIES["llava"].batch(model, "ragged")
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with method(model) as run:
        mine = step(model, inputs, torch.bfloat16)
    model.gradient_checkpointing_disable()
    visual, padding, host = inputs["input_ids"] == IMAGE, inputs["attention_mask"].bool(), Host.of(model)
    rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
    labels_of_dropped = ~left(run.trace, visual, len(host.layers) - 1)
    held = inputs | {"labels": inputs["input_ids"].masked_fill(~padding, -100)}
    held["labels"][torch.arange(2), padding.long().argmax(1)] = -100
    held["labels"][:, 1:][labels_of_dropped[:, :-1]] = -100
    model.zero_grad()
    with masked(host, run.trace, visual, rules, padding):
        model(**held, use_cache=False).loss.backward()
    truth = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert mine.keys() == truth.keys()
    for name, gradient in truth.items():
        scale = float(gradient.norm())
        assert float((mine[name] - gradient).norm()) <= 0.1 * scale + 1e-4, name
