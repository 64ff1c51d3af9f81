"""A MrT5 of three and two layers whose gate is undecided."""

from __future__ import annotations

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.mrt5.model import MrT5Config, MrT5ForConditionalGeneration


def config(**changes: object) -> MrT5Config:
    """Small sizes."""
    return MrT5Config(
        **dict(
            vocab_size=40,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=3,
            num_decoder_layers=2,
            num_heads=2,
            gate_layer=1,
            dropout_rate=0.0,
        )
        | changes
    )


def build(seed: int = 0) -> Subject:
    """Random weights; the second row is padded."""
    torch.manual_seed(seed)
    model = MrT5ForConditionalGeneration(config()).eval()
    with torch.no_grad():
        model.encoder.gate.weight *= 3
        model.encoder.gate.bias.zero_()  # about half of the tokens go
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    ids = ids.masked_fill(mask == 0, 0)
    labels = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(seed + 1))
    labels[1, 3:] = -100
    return Subject(
        model,
        {"input_ids": ids, "attention_mask": mask, "labels": labels},
        generate={"input_ids": ids, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False},
    )
