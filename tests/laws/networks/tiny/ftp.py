"""An FTP model: two layers of encoder, one of decoder, four tokens ahead."""

from __future__ import annotations

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.ftp.model import FTPConfig, FTPForCausalLM


def build(seed: int = 0) -> Subject:
    """Random weights; the second row is padded on the left."""
    torch.manual_seed(seed)
    config = FTPConfig(
        vocab_size=41,
        n_positions=48,
        n_embd=32,
        n_layer=2,
        n_head=2,
        horizon=4,
        slots=3,
        decoder_layers=1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        initializer_range=0.1,
    )
    model = FTPForCausalLM(config).eval()
    ids = torch.randint(1, 41, (2, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    ids = ids.masked_fill(mask == 0, 0)
    return Subject(
        model,
        {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)},
        generate={"input_ids": ids, "attention_mask": mask, "max_new_tokens": 7, "do_sample": False},
    )
