"""What a byte costs: exact byte-level decoding of SmolLM2 against its own forward passes, and against genlm-bytes.

Every way walks the same bytes: it gives the distribution of the next byte, then takes the next byte of the text. The
peer is measured where `genlm.bytes` can be imported (``pip install genlm-bytes``, in an environment of its own) and
called absent elsewhere. It keeps a beam of token sequences; how far its next-byte distributions are from the exact ones
depends on the beam and stands beside its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import DynamicCache

from benchmarks.common import interleave, write
from tokenry.hosts.upstream import with_cache
from tokenry.models.load import load
from tokenry.predict.lm.byte_probabilities.byte_model import ByteModel, byte_model

PROMPT = (
    "The lighthouse keeper had not spoken to anyone for eleven days when the boat came around the headland. He put "
    "down his cup, took the oilskin from its hook and went out to see who would visit him in such wea"
)
TEXT = b"ther.\n\nA woman was "
PEERS = {"genlm-bytes, beam 5, prune 0.05": (5, 0.05), "genlm-bytes, beam 5, prune 1e-3": (5, 1e-3)}


def run(console: Console, rounds: int) -> None:
    """Time for 19 bytes after a prompt of 205, which ends inside a word."""
    lm, tokenizer = load("smollm2")
    model = byte_model(lm, tokenizer)
    exact = _ours(model)
    ways: dict[str, Callable[[], Any]] = {
        "forward passes of one token alone": lambda: _forwards(model),
        "tokenry, exact": lambda: _ours(model),
        "tokenry, min_log_mass=-10": lambda: _ours(pruned),
    }
    pruned = byte_model(lm, tokenizer, min_log_mass=-10.0)
    away = {"tokenry, exact": 0.0, "tokenry, min_log_mass=-10": _distance(exact, _ours(pruned))}
    for name, (width, threshold) in PEERS.items() if _peer() else ():
        way = _genlm(lm, tokenizer, width, threshold)
        away[name] = _distance(exact, way())
        ways[name] = way
    timed = interleave(ways, max(3, rounds // 3), warm_up=1)
    own = timed["forward passes of one token alone"]
    ours = timed["tokenry, exact"]
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "ms a byte": 1e3 * t.median / len(TEXT),
            "over own forward passes": t.over(own),
            "times slower than ours": t.over(ours),
            "distance from exact": away.get(name),
        }
        for name, t in timed.items()
    ]
    if not _peer():
        rows += [{"way": f"{name}: not installed here"} for name in PEERS]
    targets = {
        "tokenry, exact: over own forward passes": "<= 1.4",
        "genlm-bytes: times slower than ours": "> 1",
        "distance": "mean total variation between next-byte distributions",
    }
    write("byte-sampling", rows, targets, console)


def _ours(model: ByteModel) -> np.ndarray:
    """The prompt and the text, byte by byte; the next-byte distributions."""
    state = model.state(PROMPT)
    found = []
    for byte in TEXT:
        found.append(np.exp(state.log_probs[:256]))
        state = state.step(byte)
    return np.array(found)


def _forwards(model: ByteModel) -> None:
    """What no way of asking once a byte can do without: the prompt, and one token a byte, from the usual cache."""
    cache = DynamicCache()
    ids = [*model.context, *model.vocab.encode(PROMPT.encode())]
    with torch.inference_mode():
        model.lm(torch.tensor([ids]), **with_cache(model.lm, cache), use_cache=True, logits_to_keep=1)
        for _ in TEXT:
            model.lm(torch.tensor([[ids[-1]]]), **with_cache(model.lm, cache), use_cache=True)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).sum(axis=1).mean() / 2)


def _peer() -> bool:
    return find_spec("genlm") is not None and find_spec("genlm.bytes") is not None


def _genlm(lm: Any, tokenizer: Any, width: int, threshold: float) -> Callable[[], np.ndarray]:
    backend, peer = import_module("genlm.backend.llm.hf"), import_module("genlm.bytes")

    # No waiting for further queries: there are none. Its vocabulary's trie is built once, like ours.
    served = backend.AsyncTransformer(lm, tokenizer, batch_size=width, timeout=0.0)
    params = peer.BeamParams(K=width, prune_threshold=threshold)
    start: list[Any] = []

    async def walk() -> np.ndarray:
        served.clear_cache()
        served.clear_kv_cache()
        if not start:
            start.append(await peer.ByteBeamState.initial(served, params))
        # Its cache of keys and values is filled on request: all of the prompt but its last words.
        served.cache_kv([tokenizer.bos_token_id, *tokenizer.encode(PROMPT[: PROMPT.rindex(" in such")])])
        state = await start[0].prefill(PROMPT.encode())
        found = []
        for byte in TEXT:
            logs = (await state.logp_next()).ps
            found.append(np.exp(np.asarray(logs[:256], dtype=np.float64)))
            state = await (state.prune() << byte)
        return np.array(found)

    return lambda: asyncio.run(walk())
