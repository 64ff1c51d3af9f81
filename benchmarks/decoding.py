"""Decoders on SmolLM2 in bfloat16, over five classes of prompts, beside transformers' own and other packages."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from benchmarks.common import write
from tokenry.bench.decoders.compare import DECODERS, TRANSFORMERS_LOOKUP, compare_decoders
from tokenry.bench.decoders.report import DecodingReport, decoding_table
from tokenry.data.text.prompts import Prompts, load_prompts
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.models.load import load
from tokenry.predict.lm.calibrate import calibrate
from tokenry.predict.lm.generate import decoder

NEW_TOKENS = 128
EARLY_EXIT = (
    6  # layers of 30 that draft for transformers' assisted generation: there is no smaller model here
)
PEERS = "TOKENRY_PEERS_PYTHON"  # an interpreter of an environment with flashspec, economize and dejavuu
TARGETS = {
    "token-recycling, mean": ">= 1.35",
    "recycling+lookup, mean": ">= 1.8",
    f"recycling+lookup, times {TRANSFORMERS_LOOKUP}": ">= 1.25",
    "any class of these two": ">= 0.97",
}


def run(console: Console, rounds: int) -> None:
    """Every decoder on thirty prompts of up to 128 new tokens; the peers on the same prompts, in their own process."""
    rounds = max(1, rounds // 15)  # thirty prompts are thirty repetitions already
    model, tokenizer = load("smollm2", dtype=torch.bfloat16)
    prompts = load_prompts()
    calibration = calibrate(model)
    times = [{"rows": n, "times one row": ratio} for n, ratio in calibration.latency.items()]
    write("decoding-calibration", times, {}, console)
    ways: dict[str, Any] = {name: name for name in (*DECODERS, "ppd")}
    # One matrix for both: what the model expects after every token of its vocabulary, found out beforehand.
    with TemporaryDirectory() as folder:
        for name in ("token-recycling", "recycling+lookup"):
            ways[f"{name}, warm start"] = decoder(
                model, name, calibration=calibration, warm_up=Path(folder) / "matrix"
            )
    report = compare_decoders(
        model,
        tokenizer,
        prompts,
        ways,
        new_tokens=NEW_TOKENS,
        rounds=rounds,
        calibration=calibration,
        assistant=EARLY_EXIT,
        name="SmolLM2-135M-Instruct",
        progress=console.is_terminal,
    )
    console.print(decoding_table(report))
    rows = [*_own(report), *_peers(tokenizer, prompts, rounds, console)]
    write("decoding", rows, TARGETS, console)


def _own(report: DecodingReport) -> Iterator[dict[str, Any]]:
    for one in report.summaries:
        figures = {
            "decoder": one.decoder,
            **one.speedup,
            "mean": one.mean_speedup,
            f"times {TRANSFORMERS_LOOKUP}": report.mean_speedup(one.decoder, over=TRANSFORMERS_LOOKUP),
            "tokens/s": one.tokens_per_second,
            "tokens/pass": one.acceptance_length,
            "passes/token": one.forwards_per_token,
            "rows/pass": one.rows_per_pass,
            "expected": one.expected,
            "calibrated": one.calibrated,
            "MB held": one.held_bytes / 1e6,
            "MB peak": None if one.peak_bytes is None else one.peak_bytes / 1e6,
            "as greedy": one.same,
        }
        yield {name: value for name, value in figures.items() if value is not None}


# ------------------------------------------------------------------------------------------------------------- peers


def _peers(tokenizer: Any, prompts: Prompts, rounds: int, console: Console) -> Iterator[dict[str, Any]]:
    """Their speed-ups over greedy decoding, measured in one process of theirs as ours are in ours."""
    python = os.environ.get(PEERS)
    if python is None:
        console.print(f"[yellow]peers left out: {PEERS} names no interpreter that has them")
        return
    kinds = [kind for kind, several in prompts.items() for _ in several]
    ids = [
        tokenizer.apply_chat_template(prompt.chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        for several in prompts.values()
        for prompt in several
    ]
    job = {
        "folder": str(smollm2_folder()),
        "prompts": ids,
        "eos": [tokenizer.eos_token_id],
        "new_tokens": NEW_TOKENS,
        "rounds": rounds,
        "ways": None,
    }
    script = Path(__file__).with_name("peers_decoding.py")
    done = subprocess.run(
        [python, str(script)], input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout)
    for way, reason in found["left_out"].items():
        console.print(f"[yellow]{way}: left out: {reason}")
    by_way: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for one in found["runs"]:
        by_way.setdefault(one["way"], {})[one["prompt"], one["round"]] = one
    greedy = by_way.pop("greedy")
    for way, runs in by_way.items():
        version = found["versions"][way.split()[0]]
        yield {"decoder": f"{way} ({version})", **_figures(kinds, greedy, runs)}


def _figures(
    kinds: list[str],
    greedy: dict[tuple[int, int], dict[str, Any]],
    runs: dict[tuple[int, int], dict[str, Any]],
) -> dict[str, Any]:
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number, kind in enumerate(kinds):
        each = [_per_token(greedy[key]) / _per_token(run) for key, run in runs.items() if key[0] == number]
        ratios[kind].append(statistics.median(each))
    speedup = {kind: statistics.median(values) for kind, values in ratios.items()}
    tokens, seconds = (sum(map(measure, runs.values())) for measure in (_tokens, lambda run: run["seconds"]))
    return {
        **speedup,
        "mean": statistics.geometric_mean(speedup.values()),
        "tokens/s": tokens / seconds,
        "as greedy": statistics.mean(run["ids"] == greedy[key]["ids"] for key, run in runs.items()),
    }


def _per_token(run: dict[str, Any]) -> float:
    return float(run["seconds"]) / _tokens(run)


def _tokens(run: dict[str, Any]) -> int:
    return len(run["ids"])
