"""A small language model of English documentation, trained once and shared by the reproductions that need one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.bench.lines import digest
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.text.training import train_bpe
from tokenry.text.zett import Hypernetwork, SamplerSettings
from tokenry.text.zett.batches import ZettTraining
from tokenry.text.zett.training import train_hypernetwork
from tokenry.tokens.files import whole_file, whole_folder
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack, small_llama
from tokenry.train.loop import LoopSettings, train

CORPORA = ("debian-docs", "manpages/en")


@dataclass(frozen=True, kw_only=True)
class TinySettings:
    """What a tiny language model is made of; equal settings share one training.

    Attributes:
        vocab: tokens of its byte-level BPE vocabulary.
        layers, width, heads: of the Llama.
        steps, batch, length, lr: of its training, in sequences of `length` tokens.
        limit: bytes of each corpus, for short tests; None takes all.
        seed: of weights and batches.
    """

    vocab: int = 4096
    layers: int = 4
    width: int = 192
    heads: int = 4
    steps: int = 300
    batch: int = 16
    length: int = 256
    lr: float = 4e-3
    limit: int | None = None
    seed: int = 0


@cache
def tiny_lm_texts(limit: int | None = None) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Corpus, ...]]:
    """Documents to train on, documents held out from tokenizer and model alike, and the corpora they come from."""
    corpora = tuple(load_corpus(name, limit=limit) for name in CORPORA)
    parts = [corpus.split(held_out=0.1, seed=0) for corpus in corpora]
    seen, held_out = ([text for part in side for text in part.documents] for side in zip(*parts, strict=True))
    return tuple(seen), tuple(held_out), corpora


def tiny_lm(
    cache: Path, *, console: Console | None = None, **settings: int | float | None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A causal language model of Debian documentation and manual pages, from the cache where it was trained before.

    Args:
        cache: folder in which models lie by a digest of their settings; an interrupted training continues there.
        console: where training shows its progress.
        **settings: fields of `TinySettings`.

    Returns:
        The model, in evaluation mode and float32, and its tokenizer.
    """
    chosen = TinySettings(**settings)  # type: ignore[arg-type]
    folder = cache / f"tiny-lm-{digest(asdict(chosen))}"
    if not (folder / "model").is_dir():
        _train(chosen, folder, console)
    source = Checkpoint(str(folder / "model"))
    return source.model(LlamaForCausalLM), source.tokenizer()


def _train(chosen: TinySettings, folder: Path, console: Console | None) -> None:
    """Train tokenizer and model, and put both into ``folder/model``, complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts, _, _ = tiny_lm_texts(chosen.limit)
    tokenizer = train_bpe(texts, chosen.vocab)
    model = small_llama(
        len(tokenizer),
        layers=chosen.layers,
        width=chosen.width,
        heads=chosen.heads,
        context=max(512, chosen.length),
        eos_token_id=tokenizer.eos_token_id,
        seed=chosen.seed,
    )
    train(
        CausalLanguageModel(model),
        TokenBatches(pack(tokenizer, texts), chosen.length, chosen.batch, chosen.seed),
        LoopSettings(steps=chosen.steps, lr=chosen.lr, warmup=min(50, chosen.steps), seed=chosen.seed),
        folder / "training",
        title=f"tiny language model, {chosen.vocab} tokens",
        workers=0,
        console=console,
    )
    with whole_file(folder / "settings.json") as scratch:
        scratch.write_text(json.dumps(asdict(chosen), indent=1) + "\n")
    with whole_folder(folder / "model") as scratch:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)


def tiny_hypernet(
    cache: Path, lm: Mapping[str, Any], training: Mapping[str, Any], *, console: Console | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, Hypernetwork]:
    """The tiny language model with a hypernetwork trained on it, from the cache where they were trained before.

    Args:
        cache: as for `tiny_lm`.
        lm: fields of `TinySettings`.
        training: fields of `ZettTraining`; ``sampled`` is the size of sampled vocabularies.
        console: where training shows its progress.
    """
    model, tokenizer = tiny_lm(cache, console=console, **lm)
    rest = {name: value for name, value in training.items() if name != "sampled"}
    settings = ZettTraining(sampler=SamplerSettings(size=training["sampled"]), **rest)
    lm_settings = TinySettings(**lm)
    folder = cache / f"tiny-hypernetwork-{digest(asdict(lm_settings), asdict(settings))}"
    if not (folder / "model").is_dir():
        texts, _, _ = tiny_lm_texts(lm_settings.limit)
        trained = train_hypernetwork(model, tokenizer, texts, folder / "training", settings, console=console)
        with whole_folder(folder / "model") as scratch:
            trained.save_pretrained(scratch)
    hypernet: Hypernetwork = Checkpoint(str(folder / "model")).model(Hypernetwork)
    return model, tokenizer, hypernet
