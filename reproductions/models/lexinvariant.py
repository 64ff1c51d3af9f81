"""Lexinvariant models: does context make up for tokens without identity, and do ciphers not matter?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from reproductions.models.lexinvariant_measuring import lookup_accuracy, mean_losses, measure_deciphering
from tokenry.bench.reproduce import Arm, Measurement, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.models.language.lexinvariant.model import LexinvariantConfig, LexinvariantForCausalLM
from tokenry.models.language.lexinvariant.training import (
    LexinvariantLanguageModel,
    with_draws,
)
from tokenry.train.language import TokenBatches
from tokenry.train.loop import LoopSettings


def experiment(study: Study) -> Outcome:
    """Equal steps for a lexinvariant and an ordinary model of characters; then ciphers and LookUp riddles."""
    s = study.settings
    corpus = load_corpus(s["corpus"], limit=s["bytes"])
    train_on, held_out = corpus.split(s["held_out"])
    alphabet = [c for c, _ in Counter(train_on.text()).most_common(s["symbols"] - 1)]
    ids, test = (_characters(part.text(), alphabet) for part in (train_on, held_out))
    windows = test[: s["measured"] * s["context"]].view(-1, s["context"])
    cipher = torch.from_numpy(np.random.default_rng(0).permutation(s["symbols"]))
    rows: dict[str, list[dict[str, Any]]] = {"lexinvariant": [], "standard": []}
    for seed in study.seeds:
        for name, share in (("lexinvariant", 1.0), ("standard", 0.0)):
            objective = _trained(study, share, ids, name, seed)
            by_position = mean_losses(objective, windows, s["draws"])
            ciphered = mean_losses(objective, cipher[windows], s["draws"])
            rows[name].append(
                {
                    "early": float(by_position[10:31].mean()),
                    "late": float(by_position[200 * s["context"] // 256 :].mean()),
                    "bits": float(by_position.mean()) / math.log(2),
                    "ciphered": float(ciphered.mean()) / math.log(2),
                    "lookup": lookup_accuracy(objective, s),
                    "curve": [round(float(part.mean()), 3) for part in by_position.split(s["context"] // 8)],
                }
            )
            if share == 1:
                rows[name][-1] |= measure_deciphering(study, objective, ids, cipher, windows, seed)
    lex, standard = rows["lexinvariant"], rows["standard"]
    pairs = list(zip(lex, standard, strict=True))
    return Outcome(
        metric="bits per character of held-out text (Bible)",
        ours=Arm.of("new random vectors for every sequence", tuple(r["bits"] for r in lex)),
        baseline=Arm.of("ordinary tied embeddings, equal steps", tuple(r["bits"] for r in standard)),
        measurements={
            "late gap over early gap": Measurement.of(
                [(a["late"] - b["late"]) / (a["early"] - b["early"]) for a, b in pairs]
            ),
            "perplexity on ciphered text, lexinvariant": Measurement.of(
                [2 ** (a["ciphered"] - a["bits"]) for a in lex]
            ),
            "perplexity on ciphered text, standard": Measurement.of(
                [2 ** (b["ciphered"] - b["bits"]) for b in standard]
            ),
            "LookUp accuracy over standard": Measurement.of(
                [a["lookup"] / max(b["lookup"], 1e-3) for a, b in pairs]
            ),
            "cipher symbols read": Measurement.of([a["key"] for a in lex]),
        },
        tables={
            "seed 0": {
                name: {key: value for key, value in found[0].items() if key != "curve"}
                for name, found in rows.items()
            }
        },
        details={
            "nats per character along the sequence, in eighths": {n: f[0]["curve"] for n, f in rows.items()}
        },
        data=corpus.provenance,
    )


def _characters(text: str, alphabet: list[str]) -> Int[Tensor, " n"]:
    """Ids of characters; whatever is not in the alphabet is the last symbol."""
    known = {character: i for i, character in enumerate(alphabet)}
    return torch.tensor([known.get(character, len(alphabet)) for character in text])


def _trained(
    study: Study, share: float, ids: Int[Tensor, " n"], name: str, seed: int
) -> LexinvariantLanguageModel:
    s = study.settings
    torch.manual_seed(seed)
    config = LexinvariantConfig(
        vocab_size=s["symbols"],
        hidden_size=s["width"],
        intermediate_size=s["mlp"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        max_position_embeddings=s["context"] + 1,
        random_share=share,
    )
    batches = with_draws(TokenBatches(ids, s["context"], s["batch"], seed=seed), seed)
    schedule = LoopSettings(steps=s["steps"], lr=s["lr"], warmup=max(1, s["steps"] // 20), weight_decay=0.01)
    objective = LexinvariantLanguageModel(LexinvariantForCausalLM(config))
    return study.train(objective, batches, schedule, f"{name}-{seed}")
