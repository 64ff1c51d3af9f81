"""What moving SmolLM2 to another vocabulary costs, in time and in bits per byte, by every method."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.console import Console

from benchmarks.common import write
from tokenry.bench.vocabularies.transplant import load_donor
from tokenry.data.text.corpora import load_corpus
from tokenry.models.load import load
from tokenry.models.pretrained import minilm_folder
from tokenry.text.measure import bits_per_byte
from tokenry.text.string_vectors import SentenceVectors
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, transplant, transplants
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens.errors import InputError

TEXT, COUNTED, TRAINED = 20_000, 1_000_000, 8_000_000  # bytes
THREADS = 2  # what the target of 90 seconds is about


def run(console: Console, rounds: int) -> None:
    """Seconds and bits per byte of each method, to MiniLM's 30,522 pieces and to BPE vocabularies of 16,000 and 32,000.

    TokenAdapt is timed with an empty cache of string vectors. `rounds` is not used: one move takes long enough.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        _run(console)
    finally:
        torch.set_num_threads(threads)


def _run(console: Console) -> None:
    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    train, held_out = load_corpus("debian-docs", limit=TRAINED).split(0.1, seed=0)
    texts = [document[:2000] for document in held_out.documents][: TEXT // 2000]
    # As WordPiece reads it, so that all three vocabularies are scored on the same text.
    lower = [" ".join(text.lower().split()) for text in texts]
    minilm = load_tokenizer(minilm_folder())
    readable = [text for text in lower if minilm.unk_token_id not in minilm(text)["input_ids"]] or lower[:1]
    # The documentation alone has too few frequent pairs for 32,000 entries.
    more = [d for name in ("manpages/en", "manpages/de", "licences") for d in load_corpus(name).documents]
    targets: dict[str, tuple[Any, Any]] = {
        "WordPiece 30k": (minilm, load_donor("minilm")),
        "BPE 16k": (train_bpe(train.documents, 16_000), None),
        "BPE 32k": (train_bpe([*train.documents, *more], 32_000), None),
    }
    counted = (train.text(COUNTED),)
    original = bits_per_byte(model, tokenizer, readable)
    rows: list[dict[str, Any]] = []
    for name, (target, donor) in targets.items():
        for method in transplants():
            if method == "zett" or (
                method == "omp" and donor is None
            ):  # zett needs a network trained for the model
                continue
            vectors = SentenceVectors.minilm(cached=False) if method == "tokenadapt" else None
            context = Context(texts=counted, donor=donor, vectors=vectors)
            started, used = time.perf_counter(), time.process_time()
            moved = transplant(model, tokenizer, target, method, context=context)
            row = {
                "vocabulary": name,
                "method": method,
                "seconds": time.perf_counter() - started,
                "processor seconds": time.process_time() - used,
                "bits per byte": _bits(moved, readable),
                "original": original,
            }
            rows.append(row)
            console.print(row)
    write("transplant", rows, {"seconds": "<= 90"}, console)


def _bits(moved: Any, texts: list[str]) -> float | None:
    """Bits per byte; None where the vocabulary cannot write the texts."""
    try:
        return bits_per_byte(moved.model, moved.tokenizer, texts)
    except InputError:
        return None
