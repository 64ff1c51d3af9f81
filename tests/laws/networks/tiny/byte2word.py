"""Byte2Word with two layers, three words masked."""

import torch

from tests.laws.networks.tiny import Subject
from tokenry.models.language.byte2word import MASK, PAD, Byte2WordConfig, Byte2WordForMaskedLM


def config(**changes: int) -> Byte2WordConfig:
    """Small sizes."""
    sizes = dict(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        byte_width=16,
        vocab_size=50,
    )
    return Byte2WordConfig(**(sizes | {"max_subwords": 3} | changes), initializer_range=0.2, dropout=0.0)


def build(seed: int = 0) -> Subject:
    """Two texts of different length; the score is the hidden state, as every text has its own number of logits."""
    torch.manual_seed(seed)
    model = Byte2WordForMaskedLM(config()).eval()
    words = model.words(["The mat on which the cat sat, was flat.", "On the rat it trod."])
    labels = torch.full((*words.shape[:2], 3), -100)
    for row, column, ids in ((0, 2, [7, 8]), (0, 6, [9]), (1, 3, [1, 2, 3, 4])):
        labels[row, column] = model.subword_labels([ids])[0]
        words[row, column] = PAD
        words[row, column, 0] = MASK
    return Subject(
        model,
        {"words": words, "labels": labels},
        rows=("words", "labels"),
        score=lambda output: output.last_hidden_state,
    )
