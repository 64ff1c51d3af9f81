"""A Llama of two layers with two feed-forward layers each, mixed by its routers so that every weight takes part."""

from __future__ import annotations

import torch
from transformers import LlamaConfig

from tests.laws.networks.tiny import Subject
from tokenry.models.adaptive.duo_llm.model import DuoConfig, DuoForCausalLM


def build(seed: int = 0) -> Subject:
    """Random weights; the second row is padded on the left."""
    torch.manual_seed(seed)
    host = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    model = DuoForCausalLM(DuoConfig(host=host, small=1 / 8, skip=True, routing="soft")).eval()
    ids = torch.randint(1, 61, (2, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    ids = ids.masked_fill(mask == 0, 0)
    labels = ids.masked_fill(mask == 0, -100)
    return Subject(
        model,
        {"input_ids": ids, "attention_mask": mask, "labels": labels},
        generate={"input_ids": ids, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False},
    )
