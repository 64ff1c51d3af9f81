"""HAT with two layers of each kind."""

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.hat import HatConfig, HatForCausalLM


def build(seed: int = 0) -> Subject:
    """Two texts of different length; the start word makes every word of them count."""
    torch.manual_seed(seed)
    config = HatConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        local_hidden_size=16,
        encoder_layers=2,
        decoder_layers=2,
        initializer_range=0.2,
    )
    model = HatForCausalLM(config).eval()
    words = model.words(["Hello, world! The für is here.", "the end"])
    return Subject(
        model,
        {"words": words, "labels": words},
        rows=("words", "labels"),
        generate={"texts": ["Hello, wor", "the"], "max_new_tokens": 12},
    )
