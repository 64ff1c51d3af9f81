"""What a caller reads of a session's last prompt: what was kept, how long each layer was, what it cost."""

from __future__ import annotations

import threading

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.hosts.cost import Cost, session_cost
from tokenry.hosts.reducing.call import DecoderCall
from tokenry.hosts.trace import ItemTrace
from tokenry.tokens import InputError


class LastPrompts:
    """The last prompt that each thread ran, and the last of any.

    Attributes:
        latest: the last of any thread; None before the first.
    """

    def __init__(self, latest: DecoderCall | None = None) -> None:
        """Begin with what ran before."""
        self.latest = latest
        self._own = threading.local()

    def note(self, call: DecoderCall) -> None:
        """A prompt has run in this thread."""
        self._own.call = self.latest = call

    @property
    def last(self) -> DecoderCall | None:
        """The calling thread's own where it has run one, else that of any thread."""
        own: DecoderCall | None = getattr(self._own, "call", None)
        return own or self.latest

    def require(self) -> DecoderCall:
        """The last prompt.

        Raises:
            InputError: none has run.
        """
        if self.last is None:
            raise InputError(
                "Nothing has run in this session yet; call model.generate(...) or model(...) first."
            )
        return self.last


def traces(call: DecoderCall) -> list[ItemTrace]:
    """What happened to each picture of a prompt, in order of appearance; empty if it had none."""
    met = call.met
    if met is None:
        return []
    return [
        ItemTrace(
            row=row,
            index=i,
            grid=(grid[0], grid[1], grid[2]),
            n=n,
            layers=len(call.host.layers),
            steps=tuple((at, reduction.item(i).to("cpu")) for at, reduction in call.steps),
        )
        for i, (row, grid, n) in enumerate(
            zip(met.row.tolist(), met.grid.tolist(), met.length.tolist(), strict=True)
        )
    ]


def lengths(call: DecoderCall) -> Int[Tensor, "rows layers"]:
    """Real tokens of each sequence of a prompt in each decoder layer."""
    segments = [call.segment_at(i) for i in range(len(call.host.layers))]
    return torch.stack([s.real[:, : s.real.shape[1] - call.tail].sum(1) for s in segments], 1).cpu()


def cost(call: DecoderCall) -> Cost:
    """What a prompt cost, and would have cost with all its visual tokens."""
    mask = call.padding_mask
    full = call.shape[1] if mask is None else mask[:, call.offset :].sum(1).cpu()
    shortened = lengths(call)
    return session_cost(call.host, shortened, torch.zeros_like(shortened[:, 0]) + full - call.tail)
