"""How long a forward pass takes as its rows grow: what decides how large a draft tree may be on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from tokenry.hosts.host import evaluating
from tokenry.hosts.reducing.hooks import paused
from tokenry.hosts.treepass import read_text, tree_pass
from tokenry.hosts.upstream import longest_text
from tokenry.hosts.wrappers import device_of, unwrap
from tokenry.predict.lm.requirements import try_drafts
from tokenry.tokens.errors import InputError

ROWS: Final = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Calibration:
    """Measured times of forward passes behind a cached text.

    Attributes:
        seconds: rows of a pass -> seconds.
        context: tokens in the cache.
        dtype: of the model.
        device: on which it ran.
        threads: that torch used on the CPU.
    """

    seconds: Mapping[int, float]
    context: int
    dtype: str
    device: str
    threads: int

    @property
    def latency(self) -> dict[int, float]:
        """Rows -> time in units of a pass over one row; more rows never count as faster, for that is noise."""
        least, found = 0.0, {}
        for rows, seconds in sorted(self.seconds.items()):
            least = max(least, seconds / self.seconds[1])
            found[rows] = least
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seconds": {str(rows): seconds for rows, seconds in self.seconds.items()},
            "latency": {str(rows): round(ratio, 3) for rows, ratio in self.latency.items()},
            "context": self.context,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """What `to_json` gave."""
        seconds = {int(rows): float(value) for rows, value in content["seconds"].items()}
        return cls(seconds, *(content[name] for name in ("context", "dtype", "device", "threads")))

    def __str__(self) -> str:
        rows = "  ".join(f"{rows}: {ratio:.2f}" for rows, ratio in self.latency.items())
        return (
            f"A pass over one row takes {1e3 * self.seconds[1]:.1f} ms ({self.dtype}, {self.device}, "
            f"{self.threads} thread{'' if self.threads == 1 else 's'}, {self.context} tokens cached); "
            f"times of larger ones: {rows}"
        )


@torch.no_grad()
def calibrate(
    model: nn.Module, *, rows: Sequence[int] = ROWS, context: int = 256, rounds: int = 5
) -> Calibration:
    """Measure forward passes of a causal language model over one row and over draft trees of several.

    The sizes take turns, so that a machine that slows down slows all of them, and the median counts: of process time on
    one CPU thread, where other programs do not count, else of what the clock says. SmolLM2 takes two seconds in
    bfloat16 on one CPU core, eight in float32. Inside `tokenry.reduced` the model is measured as it is outside.

    Args:
        model: in the precision, on the device and with the number of threads that it will decode with.
        rows: sizes of passes; 1 is always among them. Those that no text of this model has room for are left out.
        context: tokens in the cache while measuring; at most what the model can hold.
        rounds: passes of each size.

    Raises:
        InputError: sizes or rounds below 1; a model that writes no text.
        UnsupportedError: the model cannot judge draft trees; the message says what it lacks.
    """
    sizes = sorted({1, *rows})
    if sizes[0] < 1 or rounds < 1 or context < 1:
        raise InputError(
            f"Passes, rounds and context are at least 1, got {list(rows)}, {rounds} and {context}."
        )
    plain: PreTrainedModel = unwrap(model)
    try_drafts(plain)
    longest = longest_text(plain.config)
    if longest is not None:
        # Half of the positions for the text, where they are few: a tree is as good beside a short one.
        context = max(1, min(context, max(longest - sizes[-1], longest // 2)))
        sizes = [n for n in sizes if n == 1 or context + n <= longest]
    with evaluating(plain), paused(plain):
        times = _measured(plain, context, sizes, rounds)
    return Calibration(
        {n: median(values) for n, values in times.items()},
        context,
        str(plain.dtype).removeprefix("torch."),
        device_of(plain).type,
        torch.get_num_threads(),
    )


def _measured(model: PreTrainedModel, context: int, sizes: list[int], rounds: int) -> dict[int, list[float]]:
    """Seconds of passes over each number of rows behind a random text, `rounds` of each."""
    device = device_of(model)
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(0, vocabulary, (1, context + sizes[-1]), generator=generator).to(device)
    cache = read_text(model, ids[:, :context])
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter

    def once(n: int) -> float:
        # One row needs no mask, as in plain decoding.
        visible = torch.ones(1, n, context + n, dtype=torch.bool, device=device).tril(context)
        rows = {"input_ids": ids[:, context : context + n]}
        positions = torch.arange(context, context + n, device=device)[None]
        _wait(device)
        started = now()
        tree_pass(model, cache, rows, visible if n > 1 else None, positions)
        _wait(device)
        spent = now() - started
        cache.crop(-n)
        return spent

    for n in sizes:
        once(n)  # kernels are chosen and memory is taken the first time
    times: dict[int, list[float]] = {n: [] for n in sizes}
    for round_ in range(rounds):
        for n in sizes if round_ % 2 else reversed(sizes):
            times[n].append(once(n))
    return times


def _wait(device: torch.device) -> None:
    """Kernels on an accelerator run on their own; timing means waiting for them."""
    if device.type != "cpu":
        cast(Any, torch.accelerator).synchronize(device)
