"""Lexinvariant models: does context make up for tokens without identity, and do ciphers not matter?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import load_corpus
from tokenry.data.text.symbols import lookup_riddles
from tokenry.models.language.lexinvariant.model import LexinvariantConfig, LexinvariantForCausalLM
from tokenry.models.language.lexinvariant.training import (
    DecipherProbe,
    LexinvariantLanguageModel,
    majority_key,
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
            by_position = _losses(objective, windows, s["draws"])
            ciphered = _losses(objective, cipher[windows], s["draws"])
            rows[name].append(
                {
                    "early": float(by_position[10:31].mean()),
                    "late": float(by_position[200 * s["context"] // 256 :].mean()),
                    "bits": float(by_position.mean()) / math.log(2),
                    "ciphered": float(ciphered.mean()) / math.log(2),
                    "lookup": _lookup(objective, s),
                    "curve": [round(float(part.mean()), 3) for part in by_position.split(s["context"] // 8)],
                }
            )
            if share == 1:
                rows[name][-1] |= _deciphering(study, objective, ids, cipher, windows, seed)
    lex, standard = rows["lexinvariant"], rows["standard"]
    pairs = list(zip(lex, standard, strict=True))
    return Outcome(
        metric="bits per character of held-out text (Bible)",
        ours=Arm("new random vectors for every sequence", tuple(r["bits"] for r in lex)),
        baseline=Arm("ordinary tied embeddings, equal steps", tuple(r["bits"] for r in standard)),
        figures={
            "late gap over early gap": Figure.of(
                [(a["late"] - b["late"]) / (a["early"] - b["early"]) for a, b in pairs]
            ),
            "perplexity on ciphered text, lexinvariant": Figure.of(
                [2 ** (a["ciphered"] - a["bits"]) for a in lex]
            ),
            "perplexity on ciphered text, standard": Figure.of(
                [2 ** (b["ciphered"] - b["bits"]) for b in standard]
            ),
            "LookUp accuracy over standard": Figure.of(
                [a["lookup"] / max(b["lookup"], 1e-3) for a, b in pairs]
            ),
            "cipher symbols read": Figure.of([a["key"] for a in lex]),
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
        notes=(
            "Perplexities on ciphered text are relative to plain text, over other draws. 'key' is the share of "
            "characters in the text whose cipher symbol a majority vote of the probe reads rightly.",
            f"Models are smaller than in the specification ({s['layers']} layers of width {s['width']}) so that both "
            "train within minutes on one core.",
        ),
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


@torch.no_grad()
def _losses(
    objective: LexinvariantLanguageModel, windows: Int[Tensor, "b t"], draws: int
) -> Float[Tensor, " n"]:
    """Nats at each position, the mean over texts and draws."""
    found = [
        objective.losses(part, torch.arange(len(part)) + 100_000 * (draw + 1) + start)
        for draw in range(draws)
        for start, part in zip(range(0, len(windows), 16), windows.split(16), strict=True)
    ]
    return torch.cat(found).mean(0)


@torch.no_grad()
def _lookup(objective: LexinvariantLanguageModel, settings: Any) -> float:
    """Share of LookUp riddles answered, the whole vocabulary to choose from."""
    model, count = objective.model, settings["riddles"]
    symbols = torch.arange(settings["symbols"])
    riddles = lookup_riddles(symbols, settings["lookup_pairs"], count, repeats=settings["lookup_repeats"])
    ids = torch.cat([torch.full((count, 1), model.config.start_id), riddles.ids], 1)
    logits = model(ids, seeds=torch.arange(count), logits_to_keep=1).logits[:, -1]
    return float((logits.argmax(-1) == riddles.answers[:, 0]).float().mean())


def _deciphering(
    study: Study,
    objective: LexinvariantLanguageModel,
    ids: Int[Tensor, " n"],
    cipher: Int[Tensor, " v"],
    windows: Int[Tensor, "b t"],
    seed: int,
) -> dict[str, float]:
    """Train a probe on plain text; read ciphered text with it, by single votes and by majority."""
    s = study.settings
    batches = with_draws(TokenBatches(ids, s["context"], s["batch"], seed=seed + 1), seed + 1)
    schedule = LoopSettings(steps=s["probe_steps"], lr=3e-3, warmup=10)
    torch.manual_seed(seed)
    probe = study.train(DecipherProbe(objective.model, s["probe_width"]), batches, schedule, f"probe-{seed}")
    some = windows[:16]
    with torch.no_grad():
        read = probe.logits(cipher[some], torch.arange(len(some)))
    late = slice(s["context"] // 2, None)
    key = majority_key(cipher[some], read, first=s["context"] // 2)
    return {
        "single votes": float((read.argmax(-1)[:, late] == some[:, late]).float().mean()),
        "key": float((key[cipher[some]] == some).float().mean()),
    }
