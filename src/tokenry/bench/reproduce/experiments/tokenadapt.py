"""TokenAdapt: SmolLM2 in two other vocabularies without training, by every heuristic; and what supertokens compress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.bench.vocabularies.transplant import load_donor
from tokenry.data.text.corpora import load_corpus
from tokenry.models.load import load
from tokenry.models.pretrained import minilm_folder
from tokenry.text.kinds import train
from tokenry.text.measure import bits_per_byte, bytes_per_token, bytes_per_word, perplexity_ratio
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Context, transplant, transplant_method
from tokenry.text.vocabulary import ByteVocab, load_tokenizer

_BPE, _WORDPIECE = "BPE of Debian documentation", "MiniLM's WordPiece"


def experiment(study: Study) -> Outcome:
    """Bits per byte of held-out text after moving SmolLM2, and bytes per token of supertokens."""
    settings = study.settings
    model, tokenizer = load("smollm2", dtype=getattr(torch, settings["dtype"]))
    corpus = load_corpus("debian-docs", limit=settings["corpus_bytes"])
    train_texts, held_out = (part.documents for part in corpus.split(0.1, seed=0))
    targets: dict[str, PreTrainedTokenizerBase] = {
        _WORDPIECE: load_tokenizer(minilm_folder()),
        _BPE: train_bpe(train_texts, settings["vocabulary"]),
    }
    texts = tuple(_excerpts(held_out, settings["text_bytes"]))
    counted = tuple(_excerpts(train_texts, settings["counted_bytes"]))
    bits: dict[str, dict[str, float]] = {}
    words: dict[str, float] = {}
    for name, target in targets.items():
        donor = load_donor("minilm") if name == _WORDPIECE else None
        seen = _as_seen(texts, target)
        words[name] = bytes_per_word(seen)
        bits[name] = {"original": bits_per_byte(model, tokenizer, seen, window=settings["window"])}
        for method, options in settings["methods"].items():
            if method == "omp" and donor is None:
                continue
            # The global part sees MiniLM's vectors in either case; OMP alone needs a model of the target vocabulary.
            context = Context(texts=counted, donor=donor)
            bits[name][_label(method, options)] = _moved(
                model, tokenizer, target, (method, options), context, seen, settings["window"]
            )
    tables = {
        f"bits per byte, {name}": {
            method: {
                "bits": round(value, 4),
                "perplexity ratio per byte": round(perplexity_ratio(value, row["original"]), 3),
                "perplexity ratio per word": _short(perplexity_ratio(value, row["original"], words[name])),
            }
            for method, value in row.items()
        }
        for name, row in bits.items()
    }
    compression = _supertokens(train_texts, held_out, settings)
    ours, mean, random = (bits[_BPE][m] for m in ("tokenadapt", "retok", "random"))
    return Outcome(
        metric="bits per byte of held-out documentation after a move to a BPE vocabulary, without training",
        ours=Arm("TokenAdapt", (ours,)),
        baseline=Arm("mean of the pieces (ReTok's initialisation)", (mean,)),
        figures={
            "word perplexity over retok": Figure.of([perplexity_ratio(ours, mean, words[_BPE])]),
            "word perplexity over retok, WordPiece": Figure.of(
                [
                    perplexity_ratio(
                        bits[_WORDPIECE]["tokenadapt"], bits[_WORDPIECE]["retok"], words[_WORDPIECE]
                    )
                ]
            ),
            "bits of random above retok": Figure.of([random - mean]),
            "compression of supertokens": Figure.of([compression["supertokens"] / compression["bpe"]]),
        },
        tables=tables,
        details={"bytes per token of held-out text": {k: round(v, 3) for k, v in compression.items()}},
        notes=(
            "SmolLM2's weights come from a 4-bit file; all methods start from the same ones.",
            "WordPiece changes what it reads: both models are scored on the text as that vocabulary writes it.",
            "MiniLM stands for the paper's embedding model and PPMI vectors for fastText; OMP's donor is MiniLM.",
        ),
        data=corpus.provenance,
    )


def _moved(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    method: tuple[str, Mapping[str, Any]],
    context: Context,
    texts: tuple[str, ...],
    window: int,
) -> float:
    """Bits per byte after one move."""
    chosen = transplant_method(method[0].split(" ")[0], **method[1])
    moved = transplant(model, tokenizer, target, chosen, context=context)
    return bits_per_byte(moved.model, moved.tokenizer, texts, window=window)


def _label(method: str, options: Mapping[str, Any]) -> str:
    """A method's name; a second variant of it is named by its settings."""
    return (
        method
        if " " not in method
        else f"{method.split(' ')[0]}, {', '.join(f'{k} {v}' for k, v in options.items())}"
    )


def _excerpts(documents: tuple[str, ...], size: int) -> list[str]:
    """Beginnings of documents, equally long, of about `size` characters together."""
    each = max(200, size // max(1, len(documents)))
    found: list[str] = []
    for document in documents:
        if sum(map(len, found)) >= size:
            break
        found.append(document[:each])
    return found


def _as_seen(texts: tuple[str, ...], target: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The texts as a vocabulary writes them back; only WordPiece changes anything."""
    vocabulary = ByteVocab.from_tokenizer(target)
    if vocabulary.kind != "wordpiece":
        return texts
    unknown = target.unk_token_id
    lines = []
    for text in texts:
        kept = [
            line
            for line in text.splitlines()
            if unknown not in target(line, add_special_tokens=False)["input_ids"]
        ]
        ids = target(" ".join(kept), add_special_tokens=False)["input_ids"]
        lines.append(b"".join(vocabulary.token_bytes[token] or b"" for token in ids).decode().strip())
    return tuple(line for line in lines if line)


def _supertokens(
    texts: tuple[str, ...], held_out: tuple[str, ...], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Bytes per token of supertokens and of word-bounded BPE, both of the same size and trained on the same text."""
    size = settings["supertoken_vocabulary"]
    kinds = {"bpe": train("bpe", texts, size), "supertokens": train("supertoken", texts, size)}
    return {name: bytes_per_token(tokenizer, list(held_out)) for name, tokenizer in kinds.items()}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
