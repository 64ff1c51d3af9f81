"""Training routers: batches, the loss on calls only, what moves and what does not, and that it is learnt."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.text.transplant import tiny
from tokenry.predict.octopus_v4 import FunctionalRouter
from tokenry.predict.octopus_v4.adapter import LoraSettings, with_lora
from tokenry.predict.octopus_v4.tokens import CallPrompt, FunctionalTokens, add_functional_tokens
from tokenry.predict.octopus_v4.training import CallBatches, CallObjective, RoutingExample
from tokenry.tokens.errors import InputError
from tokenry.train.loop import LoopSettings, train

WORKERS = {"cats": "the cat sat there", "weather": "the weather is neither"}
EXAMPLES = [
    RoutingExample(f"{start} {what}?", worker, what)
    for worker, things in {"cats": ("cat", "mat", "cats"), "weather": ("weather", "here", "feathers")}.items()
    for what in things
    for start in ("the", "is the other")
]


def setting(tied: bool = True) -> tuple[Any, Any, FunctionalTokens]:
    tokenizer = copy.deepcopy(tiny.byte_level())
    model = tiny.llama(tokenizer, tied=tied)
    return model, tokenizer, add_functional_tokens(model, tokenizer, WORKERS)


def batches_of(tokenizer: Any, tokens: FunctionalTokens, batch: int = 4, **options: Any) -> CallBatches:
    return CallBatches(
        EXAMPLES,
        CallPrompt(tokenizer, system=""),
        lambda e: tokens.encode(tokenizer, e.worker, e.argument),
        batch=batch,
        **options,
    )


def test_batches_have_padding_in_front_and_calls_at_the_end() -> None:
    _, tokenizer, tokens = setting()
    batches = batches_of(tokenizer, tokens, batch=5)
    batch = batches(3)
    again = batches_of(tokenizer, tokens, batch=5)(3)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert batches_of(tokenizer, tokens, batch=5, seed=1)._places(3) != batches._places(3)
    for ids, mask, places, labels in zip(*batch.values(), strict=True):
        n = int(mask.sum())
        assert mask.tolist() == [0] * (len(mask) - n) + [1] * n
        assert places[-n:].tolist() == list(range(n))
        call = labels[labels != -100]
        assert torch.equal(ids[-len(call) :], call)
        assert call[0] in tokens.ids
        assert call[-1] == tokens.end
    seen = [
        row.tolist()
        for step in range(12)
        for row in batches_of(tokenizer, tokens, batch=1)(step)["input_ids"]
    ]
    assert len({tuple(row) for row in seen}) == len(EXAMPLES)  # all of them, once each


def test_descriptions_stand_in_the_prompt_for_the_first_steps_only() -> None:
    _, tokenizer, tokens = setting()
    batches = batches_of(tokenizer, tokens, described=CallPrompt(tokenizer, tokens), described_steps=2)
    described = [
        "the weather is neither" in tokenizer.decode(batches(step)["input_ids"][0]) for step in range(4)
    ]
    assert described == [True, True, False, False]


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_loss_is_that_of_the_call_alone_with_its_first_token_weighted(weight: float) -> None:
    model, tokenizer, tokens = setting()
    batch = batches_of(tokenizer, tokens)(0)
    loss, figures = CallObjective(model, functional_weight=weight)(batch)
    total, count, right = 0.0, 0.0, 0
    for example in [EXAMPLES[i] for i in batches_of(tokenizer, tokens)._places(0)]:
        prompt = CallPrompt(tokenizer, system="")(example.query)
        call = tokens.encode(tokenizer, example.worker, example.argument)
        logits = model(torch.tensor([prompt + call])).logits[0, len(prompt) - 1 : -1]
        nats = F.cross_entropy(logits, torch.tensor(call), reduction="none")
        weights = torch.tensor([weight] + [1.0] * (len(call) - 1))
        total, count = total + (nats * weights).sum().item(), count + float(weights.sum())
        right += int(logits[0].argmax() == call[0])
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    assert figures["routed"].item() == right / 4


def test_settings_that_make_no_sense_are_refused() -> None:
    model, tokenizer, tokens = setting()
    with pytest.raises(InputError, match="weight must be above 0"):
        CallObjective(model, functional_weight=0.0)
    with pytest.raises(InputError, match="2 steps want descriptions"):
        batches_of(tokenizer, tokens, described_steps=2)
    with pytest.raises(InputError, match="must be examples"):
        CallBatches([], CallPrompt(tokenizer), lambda e: [], batch=1)


@pytest.mark.parametrize("tied", [True, False])
def test_training_moves_lora_and_new_rows_and_nothing_else(tied: bool, tmp_path: Path) -> None:
    model, tokenizer, tokens = setting(tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = with_lora(model, tokens, LoraSettings(rank=4))
    objective = CallObjective(adapted)
    settings = LoopSettings(steps=5, lr=0.01, warmup=1, lr_scale=objective.lr_scale, precision="no")
    train(objective, batches_of(tokenizer, tokens), settings, tmp_path, workers=0)
    learnt = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "token" in name for name in learnt)
    with adapted.disable_adapter():
        ids = tiny.ids_of(model)
        old = tiny.llama(copy.deepcopy(tiny.byte_level()), tied=tied)
        torch.testing.assert_close(
            adapted(ids).logits[..., : old.config.vocab_size], old(ids).logits, rtol=0, atol=1e-5
        )
    after = adapted.merge_and_unload().state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(after[name][: tokens.ids[0]], before[name][: tokens.ids[0]])
        # nothing is predicted behind the end: where the tables are two, its row of the first one has no gradient
        moved = tokens.ids if name.startswith("model") and not tied else tokens.all_ids
        assert not any(torch.equal(after[name][token], before[name][token]) for token in moved)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    assert not torch.equal(
        after["model.layers.0.self_attn.q_proj.weight"], before["model.layers.0.self_attn.q_proj.weight"]
    )


def trained(folder: Path, *stops: int | None, lora: bool = True) -> tuple[FunctionalRouter, Any]:
    """A router, trained in as many goes as there are stops."""
    for stop in stops:
        model, tokenizer, tokens = setting(tied=False)
        model = with_lora(model, tokens, LoraSettings(rank=8)) if lora else model
        objective = CallObjective(model, functional_weight=2.0)
        settings = LoopSettings(
            steps=100, lr=0.02, warmup=10, lr_scale=objective.lr_scale, precision="no", checkpoint_every=50
        )
        batches = batches_of(tokenizer, tokens, batch=12)
        train(objective, batches, settings, folder, workers=0, stop_after=stop)
    prompt = CallPrompt(tokenizer, system="")
    return FunctionalRouter(model.eval(), tokenizer, tokens, prompt=prompt, max_new_tokens=30), model


def test_routing_is_learnt_and_an_interrupted_training_goes_on_exactly(tmp_path: Path) -> None:
    router, model = trained(tmp_path / "whole", None)
    chances = router.confidences([example.query for example in EXAMPLES], list(WORKERS))
    assert [list(WORKERS)[i] for i in chances.argmax(1).tolist()] == [example.worker for example in EXAMPLES]
    again = dict(trained(tmp_path / "stopped", 50, None)[1].named_parameters())
    assert all(torch.equal(parameter, again[name]) for name, parameter in model.named_parameters())


def test_whole_calls_are_learnt(tmp_path: Path) -> None:
    router, _ = trained(tmp_path, None, lora=False)  # a model without any training learns nothing by LoRA
    written = router.write([example.query for example in EXAMPLES], list(WORKERS))
    assert [(one.worker, one.argument) for one in written] == [(e.worker, e.argument) for e in EXAMPLES]
