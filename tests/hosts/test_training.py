"""A training step on fewer tokens: loss and gradients are those of the masked full sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hosts.families import FAMILIES, Inputs
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.oracle import masked
from tokenry.reduce import Reducer
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pool import Pool
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.tokens import Positions, UnsupportedError

METHODS: list[Reducer] = [
    RandomTokens(budget=0.4),
    Pool(budget=0.4),
    FastV(budget=0.4, layer=2),
    PyramidDrop(budget=0.3),
]


def step(model: Any, inputs: Inputs, labels: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, logits and gradients of one step."""
    model.zero_grad()
    out = model(**inputs, labels=labels, use_cache=False)
    out.loss.backward()
    return (
        out.loss.detach(),
        out.logits.detach(),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )


@pytest.mark.parametrize("checkpointing", ["off", "reentrant", "not-reentrant"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.slug)
@pytest.mark.parametrize("name", ["llava", "qwen2-vl", "qwen3-vl"])
def test_loss_and_gradients_equal_the_oracles(name: str, method: Reducer, checkpointing: str) -> None:
    model: Any = FAMILIES[name].build("sdpa")
    host = Host.of(model)
    inputs = FAMILIES[name].batch(model, "ragged")
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    visual = ids == 110
    labels = ids.masked_fill(~mask, -100)  # also on the picture: labels after a dropped token have to go
    # A first token after padding would be predicted from padding, which no two implementations agree on.
    labels[torch.arange(len(ids)), mask.long().argmax(1)] = -100
    given = labels.clone()
    model.train()
    if checkpointing != "off":
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing == "reentrant"})
        model.enable_input_require_grads()
    refusal = None
    with method(model) as run:
        try:
            loss, logits, gradients = step(model, inputs, labels)
        except UnsupportedError as error:
            refusal = str(error)
    if refusal is not None:  # older releases put the checkpoint around what a session does before a layer
        assert (name, checkpointing) == ("qwen3-vl", "reentrant")
        assert '{"use_reentrant": False}' in refusal
        return
    assert torch.equal(labels, given)
    assert logits.shape == (*ids.shape, 128)
    kept = torch.ones_like(mask)
    for item in run.trace:
        anchors = item.reduction(3).anchor[0]
        gone = torch.ones(item.n, dtype=torch.bool)
        gone[anchors[anchors >= 0]] = False
        columns = visual[item.row].nonzero()[:, 0]
        kept[item.row, columns[gone]] = False
    truth_labels = labels.clone()
    truth_labels[:, 1:][~kept[:, :-1]] = -100
    assert not torch.equal(truth_labels, labels)
    rules = dict.fromkeys(method.cuts(host.depth), Positions(method.positions))
    model.gradient_checkpointing_disable()
    with masked(host, run.trace, visual, rules, mask):
        truth_loss, truth_logits, truth = step(model, inputs, truth_labels)
    assert abs(float(loss - truth_loss)) <= 1e-5 * float(truth_loss)
    used = kept & mask
    assert float((logits[used] - truth_logits[used]).abs().max()) <= 1e-5 * max(1, float(logits.abs().max()))
    # Reentrant checkpointing computes a few gradients (of the vision tower) only where inputs ask for them.
    assert gradients.keys() == truth.keys()
    largest = max(float(g.abs().max()) for g in truth.values())
    for parameter, gradient in truth.items():
        assert float((gradients[parameter] - gradient).abs().max()) <= 1e-5 * largest, parameter


def test_labels_are_counted_per_token_that_was_kept() -> None:
    """The loss is the mean over labels that are left, not over those of the full sequence."""
    model: Any = FAMILIES["llava"].build("sdpa")
    inputs = FAMILIES["llava"].batch(model, "one")
    labels = inputs["input_ids"].clone()
    with RandomTokens(budget=0.4)(model) as run, torch.no_grad():
        out = model(**inputs, labels=labels)
    kept = torch.ones_like(labels, dtype=torch.bool)
    kept[inputs["input_ids"] == 110] = run.trace[0].kept
    left = kept[0, :-1]
    losses = torch.nn.functional.cross_entropy(out.logits[0, :-1][left], labels[0, 1:][left])
    assert abs(float(out.loss - losses)) <= 1e-5
