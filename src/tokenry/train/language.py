"""Causal language models on the training loop: objective, batches, packing, and a small Llama to start from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.hosts.encoding import encode_plain, start_id
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective


class CausalLanguageModel(Objective):
    """Predict the next token, with any causal language model of transformers' form.

    Batches hold `input_ids`, int64 [batch, length], and may hold `labels` of the same shape (-100: not learnt).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the mean negative log-likelihood in nats a token, and the same in bits to show."""
        ids = batch["input_ids"]
        loss = self.model(input_ids=ids, labels=batch.get("labels", ids), use_cache=False).loss
        return loss, {"bits_per_token": loss.detach() / math.log(2)}


class TokenBatches:
    """Random stretches of a long row of tokens: a function of the step, so that a run resumes exactly.

    Args:
        ids: The row, as `pack` makes it.
        length: Tokens in a stretch.
        batch: Stretches in a batch.
        seed: Which stretches.

    Raises:
        InputError: If the row is shorter than one stretch.
    """

    def __init__(self, ids: Int[Tensor, " n"], length: int, batch: int, seed: int = 0) -> None:
        if len(ids) < length:
            raise InputError(
                f"The corpus has {len(ids)} tokens, fewer than one stretch of {length}: take more text or shorter ones."
            )
        self.ids, self.length, self.batch, self.seed = ids, length, batch, seed

    def __call__(self, step: int) -> dict[str, Int[Tensor, "batch length"]]:
        """Return the batch of a step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        starts = torch.randint(len(self.ids) - self.length + 1, (self.batch, 1), generator=generator)
        return {"input_ids": self.ids[starts + torch.arange(self.length)]}


def pack(tokenizer: Any, texts: Iterable[str]) -> Int[Tensor, " n"]:
    """Encode texts one after another into a row.

    Before each text stands the token from which `tokenry.text.measure` predicts a first token (bos, or else eos), after
    it eos where that is another one.

    Raises:
        InputError: If there is no text, or the tokenizer meets something that it has no token for.
    """
    start, end = start_id(tokenizer), tokenizer.eos_token_id
    before = [] if start is None else [start]
    after = [] if end is None or end == start else [end]
    kept = [text for text in texts if text]
    if not kept:
        raise InputError("There is no text to train on: all texts are empty.")
    row = [token for ids in encode_plain(tokenizer, kept) for token in (*before, *ids, *after)]
    return torch.tensor(row, dtype=torch.long)


def small_llama(
    vocab_size: int,
    *,
    layers: int = 4,
    width: int = 192,
    heads: int = 4,
    context: int = 512,
    tied: bool = True,
    eos_token_id: int | None = None,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Make an untrained Llama of a size that trains in minutes on a CPU.

    Args:
        vocab_size: Rows of the embeddings.
        layers: Number of blocks.
        width: Size of the residual stream; the feed-forward layers have 8/3 of it.
        heads: Attention heads; each has its own keys and values.
        context: Longest sequence in tokens.
        tied: Whether the output head is the embedding matrix.
        eos_token_id: Where generation stops and what starts a text; None if the tokenizer has no such token.
        seed: Which random weights; the global generator is left as it was.

    Raises:
        InputError: If the heads do not divide the width.
    """
    if width % heads:
        raise InputError(f"Heads must divide the width, got {heads} heads and width {width}")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=eos_token_id,
        eos_token_id=eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
