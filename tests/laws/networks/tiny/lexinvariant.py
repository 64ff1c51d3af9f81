"""A semi-lexinvariant model of two layers, half of whose vocabulary is redrawn."""

from __future__ import annotations

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.lexinvariant.model import LexinvariantConfig, LexinvariantForCausalLM


def build(seed: int = 0) -> Subject:
    """Random weights; the second row is padded on the left."""
    torch.manual_seed(seed)
    config = LexinvariantConfig(
        vocab_size=37,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        random_share=0.5,
    )
    model = LexinvariantForCausalLM(config).eval()
    ids = torch.randint(0, 37, (2, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    ids[0, 0] = ids[1, 3] = config.start_id
    labels = ids.masked_fill((mask == 0) | (ids == config.start_id), -100)
    seeds = torch.tensor([5, 6])
    return Subject(
        model,
        {"input_ids": ids, "attention_mask": mask, "labels": labels, "seeds": seeds},
        rows=("input_ids", "attention_mask", "labels", "seeds"),
        generate={
            "input_ids": ids,
            "attention_mask": mask,
            "seeds": seeds,
            "max_new_tokens": 6,
            "do_sample": False,
        },
    )
