"""Whether HAT's inference time falls with its number of words: against a byte-level Llama of the backbone's size, and
against itself with shorter words."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from benchmarks.common import interleave, write
from tokenry.data.text.corpora import load_corpus
from tokenry.hosts.upstream import with_cache
from tokenry.models.language.hat import PAD, HatConfig, HatForCausalLM
from tokenry.models.language.ragged import pad_words, word_lengths

WIDTH, LAYERS, HEADS = 384, 8, 6
LOCAL = {"local_hidden_size": 128, "local_num_attention_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
CAPS = (1, 2, 4, 64)  # most bytes of a word; the last cuts no English word
ROWS, READ, WRITTEN = 2, 2048, 192  # texts, bytes of each that are read, bytes that are written


def run(console: Console, rounds: int) -> None:
    """Reading and writing the same bytes of English man pages; times per byte, ratios round by round."""
    text = (
        "".join(load_corpus("manpages/en", limit=200_000).documents)[20_000:]
        .encode("ascii", "ignore")
        .decode()
    )
    texts = [text[i * READ : (i + 1) * READ] for i in range(ROWS)]
    models = {cap: _hat(cap) for cap in CAPS}
    words = {cap: model.words(texts, end=False) for cap, model in models.items()}
    llama = _llama()
    ids = torch.tensor([list(text.encode()) for text in texts])
    ways: dict[str, Any] = {"read llama": partial(_read_llama, llama, ids)}
    ways |= {f"read {cap}": partial(_read_hat, models[cap], words[cap]) for cap in CAPS}
    ways |= {f"backbone {cap}": partial(_backbone, models[cap], words[cap]) for cap in CAPS}
    ways["write llama"] = partial(_write_llama, llama, ids[:1, :WRITTEN])
    ways |= {f"write {cap}": partial(_write_hat, models[cap], texts[0][:WRITTEN]) for cap in CAPS}
    timed = interleave(ways, max(3, rounds // 3), warm_up=1)
    read, written = ROWS * READ, WRITTEN
    rows = [
        {
            "model": "byte-level Llama",
            "bytes a word": 1.0,
            "reading, us/byte": 1e6 * timed["read llama"].median / read,
            "writing, us/byte": 1e6 * timed["write llama"].median / written,
        }
    ]
    for cap in CAPS:
        n_words = int((word_lengths(words[cap], PAD) > 0).sum()) - ROWS
        rows.append(
            {
                "model": f"HAT, words of at most {cap} bytes",
                "bytes a word": read / n_words,
                "reading, us/byte": 1e6 * timed[f"read {cap}"].median / read,
                "writing, us/byte": 1e6 * timed[f"write {cap}"].median / written,
                "Llama's reading time in HAT's": timed["read llama"].over(timed[f"read {cap}"]),
                "Llama's writing time in HAT's": timed["write llama"].over(timed[f"write {cap}"]),
                "backbone against 1-byte words": timed[f"backbone {CAPS[0]}"].over(timed[f"backbone {cap}"]),
                "all of reading, the same": timed[f"read {CAPS[0]}"].over(timed[f"read {cap}"]),
                "all of writing, the same": timed[f"write {CAPS[0]}"].over(timed[f"write {cap}"]),
            }
        )
    targets = {
        "backbone against 1-byte words": ">= 0.8 * bytes a word",
        "reading and writing": "faster with longer words, at each step",
        "Llama's time in HAT's": "above 1 with words that are not cut, reading and writing",
    }
    write("hat", rows, targets, console)


def _hat(cap: int) -> HatForCausalLM:
    torch.manual_seed(0)
    config = HatConfig(WIDTH, LAYERS, HEADS, **LOCAL, max_word_bytes=cap)
    return HatForCausalLM(config).eval()


def _llama() -> LlamaForCausalLM:
    """The backbone's network with bytes for words."""
    torch.manual_seed(0)
    config = HatConfig(WIDTH, LAYERS, HEADS).backbone()
    config.vocab_size = 256
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def _read_llama(model: LlamaForCausalLM, ids: Tensor) -> None:
    model(input_ids=ids, use_cache=False)


@torch.no_grad()
def _read_hat(model: HatForCausalLM, words: Tensor) -> None:
    model(words)


@torch.no_grad()
def _backbone(model: HatForCausalLM, words: Tensor) -> None:
    vectors = torch.zeros(*words.shape[:2], model.config.local_hidden_size)
    model.predict(vectors, word_lengths(words, PAD) > 0)


@torch.no_grad()
def _write_llama(model: LlamaForCausalLM, ids: Tensor) -> None:
    """A step for each byte. The bytes are given, so that both models write the same."""
    cache = DynamicCache(config=model.config)
    for place in range(ids.shape[1]):
        logits = model(input_ids=ids[:, place : place + 1], **with_cache(model, cache), use_cache=True).logits
        logits[:, -1].argmax(-1)


@torch.no_grad()
def _write_hat(model: HatForCausalLM, text: str) -> None:
    """What `generate` does: the backbone a step for each word, the decoder one for each byte and each word's end."""
    cache = model.new_cache()
    before = model.opening
    for n, word in enumerate(model.config.word_splitter().split(text), 1):
        inputs = model.read(pad_words([before], PAD), torch.ones(1, n, dtype=torch.bool), cache)
        spelling = DynamicCache(config=model.decoder.config)
        for place, byte in enumerate([*word, None]):
            states = model.decoder(
                inputs_embeds=inputs, **with_cache(model.decoder, spelling), use_cache=True
            )
            model.head(states.last_hidden_state[:, -1]).argmax(-1)
            if byte is not None:
                inputs = model.embed_unit(torch.tensor([byte]), place)
        before = [word]
