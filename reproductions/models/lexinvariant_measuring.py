"""Lexinvariant models: loss by position, LookUp riddles, and reading a cipher."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.bench.reproduce import Study
from tokenry.data.text.symbols import lookup_riddles
from tokenry.models.language.lexinvariant.training import (
    DecipherProbe,
    LexinvariantLanguageModel,
    majority_key,
    with_draws,
)
from tokenry.train.language import TokenBatches
from tokenry.train.loop import LoopSettings


@torch.no_grad()
def mean_losses(
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
def lookup_accuracy(objective: LexinvariantLanguageModel, settings: Any) -> float:
    """Share of LookUp riddles answered, the whole vocabulary to choose from."""
    model, count = objective.model, settings["riddles"]
    symbols = torch.arange(settings["symbols"])
    riddles = lookup_riddles(symbols, settings["lookup_pairs"], count, repeats=settings["lookup_repeats"])
    ids = torch.cat([torch.full((count, 1), model.config.start_id), riddles.ids], 1)
    logits = model(ids, seeds=torch.arange(count), logits_to_keep=1).logits[:, -1]
    return float((logits.argmax(-1) == riddles.answers[:, 0]).float().mean())


def measure_deciphering(
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
