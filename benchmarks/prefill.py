"""Prefill on fewer tokens, against the limit: the same model on a natively short prompt of that length."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console

import tokenry as tk
from benchmarks.common import VISUAL, interleave, llava, prompt, write
from tokenry.hosts import Host, decoder_flops

SHARES = (0.5, 0.25, 0.11)


def run(console: Console, rounds: int) -> None:
    """Speed-up of dropping at INPUT to 50 %, 25 %, 11 %, and what a Session costs at 100 %."""
    model = llava()
    host = Host.of(model)

    def forward(inputs: dict[str, Any]) -> None:
        with torch.no_grad():
            model(**_fresh(inputs), logits_to_keep=1, use_cache=True)

    full = prompt(model)
    ways: dict[str, Callable[[], Any]] = {"full": partial(forward, full)}
    around = {}
    for share in (1.0, *SHARES):
        ways[f"reduced {share:.0%}"] = partial(forward, full)
        around[f"reduced {share:.0%}"] = partial(tk.reduced, model, "random", budget=share)
    ways["attach and detach"] = partial(_attach, model)
    for share in SHARES:
        ways[f"native {share:.0%}"] = partial(forward, prompt(model, round(share * VISUAL)))
    timed = interleave(ways, rounds, around=around)
    length = full["input_ids"].shape[1]
    flops = {
        s: decoder_flops(host, torch.full((1, 4), length - VISUAL + round(s * VISUAL)))
        for s in (1.0, *SHARES)
    }
    rows = []
    for share in SHARES:
        reduced, native = timed[f"reduced {share:.0%}"], timed[f"native {share:.0%}"]
        rows.append(
            {
                "kept": f"{share:.0%}",
                "full ms": 1e3 * timed["full"].median,
                "reduced ms": 1e3 * reduced.median,
                "native ms": 1e3 * native.median,
                "speed-up": timed["full"].over(reduced),
                "native speed-up": timed["full"].over(native),
                "share of the limit": native.over(reduced),
                "FLOPs ratio": flops[1.0] / flops[share],
            }
        )
    overhead = timed["reduced 100%"].over(timed["full"]) - 1
    rows.append(
        {
            "kept": "100%",
            "full ms": 1e3 * timed["full"].median,
            "reduced ms": 1e3 * timed["reduced 100%"].median,
            "overhead of a session": overhead,
            "attach ms": 1e3 * timed["attach and detach"].median,
        }
    )
    write("prefill", rows, {"share of the limit": ">= 0.95", "overhead of a session": "<= 0.03"}, console)


def _attach(model: Any) -> None:
    with tk.reduced(model, "random"):
        pass


def _fresh(inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs | {"mm_encoder_outputs": dict(inputs["mm_encoder_outputs"])}
