"""What the tests of clustered retrieval share: a word-level chat model of random weights, a bag-of-words encoder."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.embed.chat import Completion, TokenRuler

_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@lru_cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; a chat template with its own special tokens."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        additional_special_tokens=["<|start|>"],
        chat_template=_TEMPLATE,
        model_max_length=4096,
    )


def tiny_llama() -> LlamaForCausalLM:
    """Random weights, wide enough that the argmax is no tie."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = byte_tokenizer().eos_token_id
    return model


def words(texts: Sequence[str]) -> np.ndarray:
    """Counts of hashed words, not of length 1: texts that share words are near."""
    rows = np.zeros((len(texts), 64), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            row[zlib.crc32(word.encode()) % 64] += 1
    return rows


class Scribe(TokenRuler):
    """A language model that writes the beginning of what it is given, and remembers what it was asked."""

    def __init__(self, context: int = 4096, says: str | None = None) -> None:
        super().__init__(byte_tokenizer())
        self._context, self.says, self.asked = context, says, list[str]()

    @property
    def context(self) -> int:
        """Most tokens."""
        return self._context

    def complete(self, prompts: Sequence[str], limit: int) -> list[Completion]:
        """The first words behind the instruction."""
        self.asked += prompts
        out = []
        for prompt in prompts:
            assert self.prompt_tokens(prompt) + limit <= self._context
            text = self.cut(prompt.partition("\n\n")[2], limit) if self.says is None else self.says
            out.append(Completion(text, self.prompt_tokens(prompt), self.count(text)))
        return out
