"""Learn Your Tokens with two slots a word."""

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.learn_your_tokens import LearnYourTokensConfig, LearnYourTokensForCausalLM


def build(seed: int = 0) -> Subject:
    """Two texts of different length."""
    torch.manual_seed(seed)
    config = LearnYourTokensConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        encoder_layers=2,
        decoder_layers=2,
        encoder_intermediate_size=64,
        slots=2,
        max_words=64,
        dropout=0.0,
        initializer_range=0.2,
    )
    model = LearnYourTokensForCausalLM(config).eval()
    words = model.words(["In the beginning God created the heaven", "and the earth."])
    return Subject(
        model,
        {"words": words, "labels": words},
        rows=("words", "labels"),
        generate={"texts": ["In the beg", "and the"], "max_new_tokens": 12},
    )
