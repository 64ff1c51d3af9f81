"""Small vocabularies of the three kinds and small models over them."""

from __future__ import annotations

from functools import cache

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tokenry.text.string_vectors import AuxEmbedder
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, Donor
from tokenry.text.vocabulary import ByteVocab

TEXT = (
    "the cat sat on the mat and the other cat sat there too\n"
    "another mother and another father gather the other feathers together\n"
    "the weather is neither here nor there, nothing matters to the cat\n"
) * 12


@cache
def byte_level(size: int = 310, text: str = TEXT) -> PreTrainedTokenizerFast:
    return train_bpe([text], size, special_tokens=("<|end|>",), min_frequency=1)


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama-2's: "▁" for a space, byte pieces for what is unknown."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *"abcdefghimnorstuvwy,"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for left, right in (
        ("t", "h"),
        ("th", "e"),
        ("▁", "the"),
        ("a", "t"),
        ("▁", "c"),
        ("▁c", "at"),
        ("the", "r"),
    ):
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@cache
def wordpiece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=90, special_tokens=special))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    roles = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": name for role, name in roles.items()}
    )


def kinds() -> dict[str, PreTrainedTokenizerFast]:
    return {"byte-level": byte_level(), "sentencepiece": sentencepiece(), "wordpiece": wordpiece()}


def llama(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def bert(tokenizer: PreTrainedTokenizerFast) -> BertForMaskedLM:
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    return model


def hashed(texts: list[str]) -> torch.Tensor:
    """External vectors without a model: each string has its own fixed direction, near those of its letters."""
    letters = torch.randn(256, 8, generator=torch.Generator().manual_seed(3))
    sums = torch.stack(
        [letters[list(text.strip().lower().encode())].sum(0) for text in texts] or [letters[0]]
    )
    return torch.nn.functional.normalize(sums, dim=1)[: len(texts)]


def context(target: PreTrainedTokenizerFast, *, untied: bool = False, seed: int = 0) -> Context:
    """Everything that any method may ask for."""
    generator = torch.Generator().manual_seed(7)
    size = ByteVocab.from_tokenizer(target).size
    rows, head = torch.randn(2, size, 12, generator=generator)
    vectors: AuxEmbedder = hashed
    return Context(vectors=vectors, texts=(TEXT,), donor=Donor(rows, head if untied else None), seed=seed)


def ids_of(model: PreTrainedModel) -> torch.Tensor:
    return torch.arange(12)[None] % model.config.vocab_size
