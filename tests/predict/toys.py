"""Language models that are tables, and tokenizers whose merges are given."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import DynamicCache, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from tokenry.hosts.encoding import byte_alphabet
from tokenry.hosts.upstream import CausalLMOutputWithPast, cache_field
from tokenry.text.training import PRE_TOKENIZERS

GPT2 = PRE_TOKENIZERS["gpt2"]
#: GPT-4o's: a contraction belongs to the word before it, and capitals begin a word unless small letters follow.
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SURFACE = byte_alphabet()


class TableModel(PreTrainedModel):
    """A causal language model given by a function from token sequence to next-token probabilities.

    It keeps tokens where others keep keys, so it sees exactly what the attention mask lets it see.
    """

    config_class = LlamaConfig
    _supports_sdpa = True

    def __init__(self, table: Callable[[tuple[int, ...]], np.ndarray], size: int, eos: int) -> None:
        super().__init__(LlamaConfig(vocab_size=size, num_hidden_layers=1, eos_token_id=eos))
        self.table = table
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.calls: list[int] = []

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: DynamicCache,
        use_cache: bool = True,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        kept = input_ids[:, None, :, None].double()
        tokens, _values = cache.update(kept, kept, 0)
        self.calls.append(input_ids.shape[1])
        seen = attention_mask[:, 0] == 0
        out = np.zeros((*input_ids.shape, self.config.vocab_size))
        for row in range(input_ids.shape[0]):
            for j in range(input_ids.shape[1]):
                sequence = tokens[row, 0, : seen.shape[-1], 0][seen[row, j]].long().tolist()
                if len(sequence) == int(position_ids[row, j]) + 1:  # else padding
                    with np.errstate(divide="ignore"):
                        out[row, j] = np.log(self.table(tuple(sequence)))
        return CausalLMOutputWithPast(
            logits=torch.from_numpy(out), **cache_field(CausalLMOutputWithPast, cache)
        )


def table_of_texts(
    texts: dict[str, float], encode: Callable[[str], Sequence[int]], size: int, bos: int, eos: int
) -> Callable[[tuple[int, ...]], np.ndarray]:
    """The ideal model of a distribution over texts: what training on their encodings would lead to."""
    encoded = [((bos, *encode(text), eos), p) for text, p in texts.items()]

    def table(sequence: tuple[int, ...]) -> np.ndarray:
        found = np.zeros(size)
        for tokens, p in encoded:
            if tokens[: len(sequence)] == sequence and len(tokens) > len(sequence):
                found[tokens[len(sequence)]] += p
        return found / found.sum() if found.sum() else np.full(size, 1 / size)

    return table


def bpe(
    merges: Sequence[tuple[bytes, bytes]],
    alphabet: bytes = bytes(range(256)),
    pattern: str | None = None,
    **model: Any,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with given merges; id 0 begins and ends texts."""
    vocab = {"<s>": 0}
    for byte in alphabet:
        vocab[_SURFACE[byte]] = len(vocab)
    written = []
    for a, b in merges:
        left, right = (("".join(_SURFACE[x] for x in part)) for part in (a, b))
        vocab.setdefault(left + right, len(vocab))
        written.append((left, right))
    core = Tokenizer(models.BPE(vocab=vocab, merges=written, **model))
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if pattern is None:
        core.pre_tokenizer = split
    else:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), split]
        )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")


def random_merges(alphabet: bytes, count: int, rng: random.Random) -> list[tuple[bytes, bytes]]:
    """Merges of tokens that exist by then, as training makes them; the order is that of their making."""
    tokens = [bytes([b]) for b in alphabet]
    merges: list[tuple[bytes, bytes]] = []
    while len(merges) < count:
        pair = (rng.choice(tokens), rng.choice(tokens))
        made = pair[0] + pair[1]
        if len(made) <= 5 and made not in tokens:
            merges.append(pair)
            tokens.append(made)
    return merges


def sentencepiece(
    pieces: Sequence[str], merges: Sequence[tuple[str, str]], prefix: bool = True
) -> PreTrainedTokenizerFast:
    """A SentencePiece-style BPE tokenizer with byte fallback, as Llama 2's: a space is put in front."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{b:02X}>": 3 + b for b in range(256)}
    for piece in (*pieces, *(a + b for a, b in merges)):
        vocab.setdefault(piece, len(vocab))
    core = Tokenizer(
        models.BPE(vocab=vocab, merges=list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    front = [normalizers.Prepend("▁")] if prefix else []
    core.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(["<s>", "</s>", "<unk>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
