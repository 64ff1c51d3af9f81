"""ZeTT: a tokenizer that the hypernetwork has never seen, against the heuristics, in bits per byte."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from reproductions._shared.tiny_lm import TinySettings, tiny_hypernet, tiny_lm_texts
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.packages import cache_folder
from tokenry.data.text.corpora import load_corpus
from tokenry.text.measure import bits_per_byte, bytes_per_token
from tokenry.text.training import train_bpe
from tokenry.text.transplant import Transplant, transplant, transplant_method
from tokenry.text.transplant.base import normal_rows
from tokenry.text.zett.transfer import Zett


def experiment(study: Study) -> Outcome:
    """Bits per byte of held-out documentation after moving to another vocabulary without further training."""
    settings = study.settings
    lm = {name: settings[name] for name in ("vocab", "steps", "limit")}
    cache = cache_folder() / "models"
    model, tokenizer, hypernet = tiny_hypernet(cache, lm, settings["hypernet"], console=study.console)
    _, held_out, corpora = tiny_lm_texts(settings["limit"])
    texts = [text[: settings["characters"]] for text in held_out[: settings["documents"]]]
    other = load_corpus(settings["target_corpus"], limit=settings["target_bytes"])
    target = train_bpe(other.documents, settings["target_vocab"])

    window = TinySettings().length
    original = bits_per_byte(model, tokenizer, texts, window=window)
    methods: dict[str, Transplant] = {
        "hypernetwork": Zett(hypernet=hypernet),
        "hypernetwork, shared rows kept": Zett(hypernet=hypernet, keep_shared=True),
        "mean of pieces (FVT)": transplant_method("retok"),
        "shared rows, others random": transplant_method("random"),
    }
    bits = {}
    for name, method in methods.items():
        moved, report, _ = transplant(model, tokenizer, target, method)
        bits[name] = bits_per_byte(moved, target, texts, window=window)
    bits["all rows random"] = bits_per_byte(_all_random(moved), target, texts, window=window)
    excess = {name: value - original for name, value in bits.items()}
    ours, fvt = excess["hypernetwork"], excess["mean of pieces (FVT)"]
    return Outcome(
        metric="bits per byte of held-out documentation above the original tokenizer's",
        ours=Arm.of("hypernetwork", (ours,)),
        baseline=Arm.of("mean of pieces (FVT)", (fvt,)),
        measurements={
            "excess over fvt": Measurement.of([ours / fvt]),
            "random over excess": Measurement.of([excess["all rows random"] / ours]),
            "shared and random over excess": Measurement.of([excess["shared rows, others random"] / ours]),
        },
        tables={
            "bits per byte": {"original tokenizer": {"bits": round(original, 4), "above": 0.0}}
            | {name: {"bits": round(bits[name], 4), "above": round(excess[name], 4)} for name in bits}
        },
        details={
            "vocabularies": {
                name: report[name] for name in ("source tokens", "target tokens", "shared", "new")
            },
            "bytes per token": {
                "original": round(bytes_per_token(tokenizer, texts), 3),
                "target": round(bytes_per_token(target, texts), 3),
            },
        },
        data=tuple(p for corpus in (*corpora, other) for p in corpus.provenance),
    )


def _all_random(moved: PreTrainedModel) -> PreTrainedModel:
    """Every row drawn anew, with the mean and deviation of the matrix: what knowing nothing at all costs."""
    weight = moved.get_input_embeddings().weight.data
    weight.copy_(normal_rows(weight, len(weight), torch.Generator().manual_seed(0)))
    return moved
