"""What looking at attention costs: the row probe beside plain SDPA, and beside eager attention, which it replaces."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from rich.console import Console

from benchmarks.common import TEXT, interleave, llava, prompt, write
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.attention import ProbedAttention
from tokenry.hosts.upstream import watch_attention


def run(console: Console, rounds: int) -> None:
    """Prefill of 640 and 1,280 tokens: plain, with the last query's row read in one layer, with eager attention."""
    model, eager = llava(), llava(attn="eager")
    rows = []
    for tokens in (640, 1280):
        inputs = prompt(model, tokens - TEXT)
        ways = {
            "sdpa": partial(_forward, model, inputs),
            "sdpa and probe": partial(_probed, model, inputs),
            "eager with weights": partial(_forward, eager, inputs, output_attentions=True),
        }
        timed = interleave(ways, rounds)
        for name in ways:
            rows.append(
                {
                    "tokens": str(tokens),
                    "way": name,
                    "ms": 1e3 * timed[name].median,
                    "over sdpa": timed[name].over(timed["sdpa"]) - 1,
                }
            )
    write("probe", rows, {"over sdpa, probe, 1280 tokens": "<= 0.02"}, console)


def _forward(model: Any, inputs: dict[str, Any], **options: Any) -> None:
    with torch.no_grad():
        fresh = inputs | {"mm_encoder_outputs": dict(inputs["mm_encoder_outputs"])}
        model(**fresh, logits_to_keep=1, use_cache=True, **options)


def _probed(model: Any, inputs: dict[str, Any]) -> None:
    host = Host.of(model)
    heard = {}

    def listen(query: Any, key: Any, mask: Any, scale: float) -> bool:
        heard[0] = (query, key, scale)
        return False

    modules = host.attention_modules(host.layers, {1})
    with watch_attention([host.text_config], dict.fromkeys(modules, listen)):
        _forward(model, inputs)
    query, key, scale = heard[0]
    ProbedAttention(query, key, None, torch.ones(1, query.shape[2], dtype=torch.bool), scale).row()
