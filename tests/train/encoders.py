"""A small vocabulary, rows of text and encoders for the tests of the objectives."""

from functools import cache

import torch
from transformers import BertConfig, BertForMaskedLM, ElectraForPreTraining, PreTrainedTokenizerFast

from tokenry.learn.electra import electra_config
from tokenry.text.wordpiece import train_wordpiece
from tokenry.train.rows import EncodedRows, SpecialIds, encode, pack

TEXTS = tuple(
    f"The {animal} {verb} over the {thing}, and the {thing} {verb} under the {animal} again: unbelievable!"
    for animal in ("fox", "dog", "cat", "horse")
    for verb in ("jumps", "walks", "creeps")
    for thing in ("fence", "river", "bridge")
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_wordpiece(TEXTS, 90)


@cache
def special() -> SpecialIds:
    return SpecialIds.of(tokenizer())


@cache
def rows(length: int = 24) -> EncodedRows:
    return pack(encode(tokenizer(), TEXTS), length, special())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def electra(seed: int = 0, *, dropout: float = 0.0) -> ElectraForPreTraining:
    torch.manual_seed(seed)
    config = electra_config(
        len(tokenizer()), width=32, layers=2, heads=4, embedding=16, positions=64, dropout=dropout
    )
    return ElectraForPreTraining(config).eval()


def bert(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    return BertForMaskedLM(config).eval()
