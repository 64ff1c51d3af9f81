"""Models inside wrappers: their adapters count, and what cannot be seen from inside is refused."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import tokenry as tk
from tests.predict.toys import bpe, random_merges
from tokenry.hosts.wrappers import compiled_around, uncompiled, unwrap
from tokenry.tokens import InputError, UnsupportedError

peft = pytest.importorskip("peft")


def small(vocabulary: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=vocabulary,
    )
    return LlamaForCausalLM(config).eval()


def adapted(model: LlamaForCausalLM) -> Any:
    return peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    ).eval()


def test_wrappers_are_looked_through_in_any_order() -> None:
    model = small()
    wrapped = adapted(model)
    compiled: Any = torch.compile(wrapped, backend="eager")
    assert unwrap(model) is model
    assert unwrap(wrapped) is model
    assert unwrap(compiled) is model
    assert compiled_around(compiled) == (compiled,)
    assert compiled_around(wrapped) == ()
    forward = model.forward
    assert uncompiled(torch.compile(forward, backend="eager")) == forward
    assert uncompiled(forward) == forward
    for thing in (None, 3, "llama"):
        assert unwrap(thing) is thing


def test_byte_probabilities_are_those_of_the_adapted_model() -> None:
    tokenizer = bpe(random_merges(b"abc", 7, random.Random(0)), b"abc")
    model: Any = adapted(small(len(tokenizer)))
    merged = tk.predict.byte_model(copy.deepcopy(model).merge_and_unload(), tokenizer, context=[0])
    wrapped = tk.predict.byte_model(torch.compile(model, backend="eager"), tokenizer, context=[0])
    assert wrapped.log_prob("abcab") == pytest.approx(merged.log_prob("abcab"), abs=1e-4)
    with model.disable_adapter():
        assert wrapped.log_prob("abcab") != pytest.approx(merged.log_prob("abcab"), abs=1e-4)
    prompted = peft.get_peft_model(
        small(), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    )
    with pytest.raises(UnsupportedError, match="puts 2 virtual tokens in front"):
        tk.predict.byte_model(prompted, tokenizer)


def test_what_is_no_model_of_transformers_is_named() -> None:
    wrapped = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    with pytest.raises(InputError, match="Expected a transformers model, got Linear"):
        tk.reduced(wrapped, "random")
