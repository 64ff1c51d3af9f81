"""Results that were never measured: for what is computed from them, and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenry.bench.lines import ResultsWriter, digest
from tokenry.bench.reducers.overlay import encode_picture
from tokenry.bench.reducers.results import ArmResult, Line, Refusal, Run, StoredPicture, TokenTrace

SETTING = "5e77"
FACTS: dict[str, Any] = {
    "model": "a model <with> marks",
    "class": "LlavaForConditionalGeneration",
    "fingerprint": "3f29ab",
    "parameters": 7_900_000,
    "dtype": "float32",
    "attention": "sdpa",
    "device": "cpu",
    "machine": "a processor, 2 cores",
    "threads": 1,
    "code": "0.1.0+abc",
    "versions": {"python": "3.11", "torch": "2.13", "transformers": "5.23", "tokenry": "0.1.0"},
    "data": "scenes",
    "max_new_tokens": 8,
    "metric": "exact",
    "prompt": "{question}",
    "positions": "keep",
}
LAYERS, TOKENS = 4, 16
BUDGETS = ("50%", "25%")


def result(
    method: str = "none", budget: str = "", item: int = 0, score: float | None = 1.0, **changed: Any
) -> ArmResult:
    """A result with plausible figures."""
    kept = {"": TOKENS, "50%": 8, "25%": 4}[budget]
    seed = changed.get("seed", 0)
    values: dict[str, Any] = {
        "setting": SETTING,
        "key": digest(method, budget, item, seed),
        "method": method,
        "budget": budget,
        "seed": 0,
        "item": f"item-{item}",
        "example": f"question {item}",
        "picture": f"picture {item // 2}",
        "topic": ("place", "count")[item % 2],
        "question": f"what is number {item}?",
        "truth": None if score is None else "apple",
        "answer": "apple" if score else "pear",
        "score": score,
        "tokens": kept,
        "full_tokens": TOKENS,
        "by_layer": (kept,) * LAYERS,
        "prefill_flops": 1e6 * (4 + kept),
        "kv_bytes": 100.0 * (4 + kept),
        "encoder_ms": 5.0,
        "selection_ms": 0.5 if budget else 0.0,
        "prefill_ms": 1.0 + kept,
        "decode_ms": 2.0,
        "memory_bytes": 4e8,
        "recall": kept / TOKENS,
        "trace": None,
    }
    return ArmResult(**(values | changed))


def run(items: int, **changed: Any) -> Run:
    """The line that announces the results."""
    arms = [(m, b) for m in ("random", "pool", "fine", "poor") for b in BUDGETS]
    rivals = {b: [("random", b), ("pool", b)] for b in BUDGETS}
    plan = {
        "arms": [("none", ""), *arms],
        "against": [[], *(rivals[b] if m in ("fine", "poor") else [] for m, b in arms)],
        "items": [f"item-{i}" for i in range(items)],
        "pictures": items // 2,
        "seeds": 2,
    }
    values: dict[str, Any] = {
        "setting": SETTING,
        "facts": FACTS,
        "plan": plan,
        "started": "2026-01-02T03:04:05+00:00",
    }
    return Run(**(values | {"load": 0.25} | changed))


def lines(items: int = 40) -> list[Line]:
    """A whole comparison: `fine` loses nothing, `poor` two answers in five, `random` a little."""
    rng = np.random.default_rng(0)
    found: list[Line] = [run(items), Refusal(SETTING, "picky", "50%", "This model has no [CLS] token.")]
    for i in range(2):
        noise = Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        found.append(
            StoredPicture(
                SETTING, f"picture {i}", encode_picture(noise), {f"question {2 * i}": [[0.1, 0.1, 0.5, 0.5]]}
            )
        )
    for item in range(items):
        found.append(result(item=item))
        for budget in BUDGETS:
            kept = 8 if budget == "50%" else 4
            shown = item in (0, 2)
            cut = TokenTrace((1, 4, 4), LAYERS, tuple(LAYERS if t < kept else 0 for t in range(TOKENS)))
            merged = TokenTrace(
                (1, 4, 4), LAYERS, (LAYERS,) * TOKENS, tuple(t * kept // TOKENS for t in range(TOKENS))
            )
            found.append(result("pool", budget, item, float(item % 4 > 0), trace=merged if shown else None))
            found.append(result("fine", budget, item, 1.0, trace=cut if shown else None))
            found.append(result("poor", budget, item, float(item % 5 > 1), trace=cut if shown else None))
            for seed in range(2):
                found.append(result("random", budget, item, float((item + seed) % 10 > 0), seed=seed))
    return found


def write(path: Path, content: list[Line]) -> Path:
    """Write lines to a results file."""
    with ResultsWriter(path) as writer:
        for line in content:
            writer.append(line)
    return path
