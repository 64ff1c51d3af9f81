"""Measuring two or more ways of doing a thing so that the comparison holds on a noisy machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tokenry.hosts.upstream import BaseModelOutputWithPooling
from tokenry.tokens.files import whole_file

RESULTS = Path(__file__).parents[1] / "docs" / "results"
IMAGE = 99
TEXT = 64
VISUAL = 576


@dataclass(frozen=True)
class Timed:
    """Process seconds of one thing over several rounds.

    Attributes:
        median: seconds.
        low, high: first and third quartile.
        rounds: every round, in order, so that things can be compared round by round.
    """

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    def over(self, other: Timed) -> float:
        """How many times longer this takes: the median of the round-by-round ratios."""
        return statistics.median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def interleave(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    warm_up: int = 2,
    around: Mapping[str, Callable[[], AbstractContextManager[Any]]] | None = None,
) -> dict[str, Timed]:
    """Run every way once per round, in turn; count process time, so that other programs' time does not count.

    Args:
        ways: what to time.
        rounds: rounds that count.
        warm_up: rounds before them.
        around: contexts in which a way runs; entering and leaving them is not timed.
    """
    around = around or {}
    for _ in range(warm_up):
        for name, way in ways.items():
            with around.get(name, nullcontext)():
                way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        names = list(ways) if round_ % 2 == 0 else list(reversed(ways))
        for name in names:
            with around.get(name, nullcontext)():
                started = time.process_time()
                ways[name]()
                seconds[name].append(time.process_time() - started)
    out = {}
    for name, values in seconds.items():
        low, _, high = statistics.quantiles(values, n=4)
        out[name] = Timed(statistics.median(values), low, high, tuple(values))
    return out


def llava(layers: int = 4, width: int = 768, attn: str = "sdpa") -> LlavaForConditionalGeneration:
    """A LLaVA with a 4-layer, 768-wide Llama and next to no vision tower: what is timed is the language model."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=48,
            patch_size=2,
        ),
        text_config=LlamaConfig(
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=12,
            num_key_value_heads=12,
            vocab_size=1000,
            max_position_embeddings=16384,
        ),
        image_token_id=IMAGE,
    )
    return LlavaForConditionalGeneration._from_config(config, attn_implementation=attn).eval()


def prompt(model: LlavaForConditionalGeneration, visual: int = VISUAL, rows: int = 1) -> dict[str, Any]:
    """A prompt of 64 text tokens around a picture that has been encoded to `visual` tokens."""
    generator = torch.Generator().manual_seed(0)
    width = model.config.text_config.hidden_size
    ids = torch.randint(100, 1000, (rows, TEXT + visual), generator=generator)
    ids[:, 8 : 8 + visual] = IMAGE
    features = torch.randn(rows, visual, width, generator=generator)
    output = BaseModelOutputWithPooling(pooler_output=list(features))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_encoder_outputs": {"image": output}}


def provenance() -> dict[str, Any]:
    """Machine, load, versions, date: what a number needs to be worth reading."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")),
        platform.processor(),
    )
    names = ("tokenry", "torch", "transformers", "numpy")
    return {
        "machine": {"cpu": cpu, "cores": os.cpu_count(), "system": platform.system()},
        "load": [round(v, 2) for v in os.getloadavg()],
        "threads": torch.get_num_threads(),
        "clock": "process time, medians, ways interleaved round by round",
        "versions": {n: importlib.metadata.version(n) for n in names} | {"python": platform.python_version()},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write(name: str, rows: list[dict[str, Any]], targets: Mapping[str, Any], console: Console) -> None:
    """Print a table and store it, with the targets it is judged by, as ``docs/results/bench-NAME.json``."""
    table = Table(title=name, title_justify="left")
    columns = list(dict.fromkeys(k for row in rows for k in row))
    for column in columns:
        table.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(c)) for c in columns))
    console.print(table)
    path = RESULTS / f"bench-{name}.json"
    content = {"name": name, "rows": rows, "targets": dict(targets)} | provenance()
    with whole_file(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n")
    console.print(f"targets: {dict(targets)}\nwritten to {path}\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
