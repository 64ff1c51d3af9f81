"""Does MrT5's time fall with what it deletes? Encoder and generation at several measured deletion rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console

from benchmarks.common import interleave, write
from tokenry.models.mrt5.model import MrT5Config, MrT5ForConditionalGeneration

BYTES = 512
RATES = (0.0, 0.25, 0.5, 0.75)
NEW = 8


def model() -> MrT5ForConditionalGeneration:
    """ByT5-small's depth and shape at a quarter of its width, with a gate that can be set to a rate."""
    torch.manual_seed(0)
    config = MrT5Config(d_model=384, d_ff=896, d_kv=64, num_heads=6, num_layers=12, num_decoder_layers=4)
    return MrT5ForConditionalGeneration(config).eval()


def set_rate(network: MrT5ForConditionalGeneration, ids: torch.Tensor, rate: float) -> None:
    """Move the threshold to where the (random) gate deletes this share."""
    with torch.no_grad():
        gates = network.encoder(ids, deletion="soft").gates
    assert gates is not None
    network.config.gate_threshold = float(gates.flatten().quantile(rate)) if rate else -31.0


def run(console: Console, rounds: int) -> None:
    """Time the encoder, and generation of a few bytes, on one row of 512 bytes."""
    network = model()
    ids = torch.randint(3, 259, (1, BYTES), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)

    def encode(rate: float) -> Callable[[], Any]:
        def way() -> Any:
            network.config.gate_threshold = thresholds[rate]
            with torch.no_grad():
                return network.encoder(ids, mask, "hard" if rate else "none")

        return way

    def generate(rate: float) -> Callable[[], Any]:
        def way() -> Any:
            network.config.gate_threshold = thresholds[rate]
            return network.generate(
                ids, attention_mask=mask, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False
            )

        return way

    thresholds: dict[float, float] = {}
    for rate in RATES:
        set_rate(network, ids, rate)
        thresholds[rate] = network.config.gate_threshold
    ways = {f"encoder {rate}": encode(rate) for rate in RATES} | {
        f"generate {rate}": generate(rate) for rate in RATES
    }
    timed = interleave(ways, rounds)
    rows = []
    for rate in RATES:
        network.config.gate_threshold = thresholds[rate]
        with torch.no_grad():
            kept = network.encoder(ids, mask, "hard").last_hidden_state.shape[1]
        # 3 of 12 layers run on all bytes; linear layers dominate at this length
        row: dict[str, Any] = {"asked": rate, "deleted": round(1 - kept / BYTES, 3), "states": kept}
        for part in ("encoder", "generate"):
            spent = timed[f"{part} {rate}"]
            row |= {f"{part}, s": spent.median, f"{part} / undeleted": spent.over(timed[f"{part} 0.0"])}
        row["linear layers say"] = round((3 + 9 * kept / BYTES) / 12, 3)
        rows.append(row)
    write(
        "mrt5",
        rows,
        {
            "encoder / undeleted": "at most 0.05 above what the linear layers say: time falls with what is deleted"
        },
        console,
    )
