"""A TokenFormer of two layers that has grown once."""

from __future__ import annotations

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.tokenformer import TokenFormerConfig, TokenFormerForCausalLM


def build(seed: int = 0) -> Subject:
    """Random weights; the second row is padded on the left."""
    torch.manual_seed(seed)
    config = TokenFormerConfig(
        vocab_size=61,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        qkv_tokens=24,
        proj_tokens=24,
        ffn_tokens=48,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    model = TokenFormerForCausalLM(config).grow(8, keys="init", seed=seed).eval()
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
