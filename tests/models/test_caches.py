"""Caches of the networks that tokenry trains: what they go by, and that they change nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.laws.networks import tiny
from tokenry.hosts.upstream import cache_argument, cache_of, parameters

SPELLINGS = sorted({"past_key_values", "cache", cache_argument(LlamaForCausalLM.forward)})
DECODERS = [
    name
    for name in tiny.names()
    if "cache" in parameters(model := tiny.build(name).model) and not model.config.is_encoder_decoder
]


def test_none_falls_out_of_the_list() -> None:
    assert {"ftp", "lexinvariant"} <= set(DECODERS)


@pytest.mark.parametrize("given", SPELLINGS)
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_text_in_two_calls_is_the_text_in_one(name: str, given: str) -> None:
    # Under the old name it comes from `generate` of releases before 5.24, and from callers who know no other.
    subject = tiny.build(name)
    inputs = {key: value for key, value in subject.inputs.items() if key != "labels"}
    ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    whole = subject.model(input_ids=ids, attention_mask=mask, position_ids=positions, **inputs)
    head = subject.model(
        input_ids=ids[:, :4],
        attention_mask=mask[:, :4],
        position_ids=positions[:, :4],
        use_cache=True,
        **inputs,
    )
    tail = subject.model(
        input_ids=ids[:, 4:],
        attention_mask=mask,
        position_ids=positions[:, 4:],
        use_cache=True,
        **inputs,
        **{given: cache_of(head)},
    )
    real = mask.bool()[:, 4:]
    torch.testing.assert_close(subject.score(tail)[real], subject.score(whole)[:, 4:][real])
