"""A small game with everything on: the objective of the tests of players, averages, phases, and several processes.

``python -m tests.train.game FOLDER`` (from the root of the repository) trains it, as one of several processes, once
with players that take turns and once with such that move at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from tokenry.train.loop import Batch, Figures, LoopSettings, Objective
from tokenry.train.phases import Phase, train_phases
from tokenry.train.players import adaptive_weight
from tokenry.train.processes import gathered

QUIET = Console(quiet=True)
CODES = 12


class Game(Objective):
    """An autoencoder with a codebook of moving averages against a critic, towards what a frozen teacher says."""

    players: ClassVar = {"generator": ("encoder.*", "decoder.*"), "critic": ("critic.*",)}
    codebook: Tensor
    count: Tensor
    teacher: nn.Module

    def __init__(self, dropout: float = 0.0, *, simultaneous: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
        self.decoder = nn.Sequential(nn.Dropout(dropout), nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 8))
        self.critic = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1, bias=False))
        self.frozen(teacher=nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)))
        self.register_buffer("codebook", torch.randn(CODES, 4))
        self.register_buffer("count", torch.ones(CODES))
        self.simultaneous, self.pull, self.restarts = simultaneous, 1.0, 0

    def enter(self, options: Mapping[str, Any]) -> None:
        self.pull = options.get("pull", 1.0)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        wanted = self.teacher(batch["x"])
        if self.player == "critic":
            real, fake = self.critic(wanted), self.critic(self.made)
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean(), {"real": real.mean().detach()}
        z = self.encoder(batch["x"])
        self.vectors = z.detach()
        kept = int(torch.randint(1, 5, (), generator=self.shared("kept")))
        code = self.codebook[torch.cdist(self.vectors, self.codebook).argmin(1)]
        straight = torch.cat([(z + (code - z).detach())[:, :kept], z[:, kept:] * 0], 1)
        made = self.decoder(straight)
        self.made = made.detach()
        task = (made - wanted).square().mean() + 0.25 * (z - code).square().mean()
        judged = -self.critic(made).mean()
        last = self.decoder[3].weight
        if not (self.pull and last.requires_grad):
            return task, {"kept": torch.tensor(float(kept))}
        weight = adaptive_weight(task, judged, last)
        return task + self.pull * weight * judged, {"weight": weight}

    def stepped(self) -> None:
        vectors = gathered(self.vectors)
        nearest = torch.cdist(vectors, self.codebook).argmin(1)
        hits = F.one_hot(nearest, CODES).float()
        self.count.lerp_(hits.sum(0), 0.2)
        used = hits.sum(0) > 0
        self.codebook[used] = self.codebook[used].lerp((hits.T @ vectors / hits.sum(0)[:, None])[used], 0.1)
        dead = (self.count < 0.2).nonzero()[:, 0]
        drawn = torch.randperm(len(vectors), generator=self.shared("restart"))[: len(dead)]
        self.codebook[dead], self.count[dead] = vectors[drawn], 1.0
        self.restarts += len(dead)


def batches(phase: Phase) -> Callable[[int], Batch]:
    offset = 1000 * len(phase.name)

    def make(step: int) -> Batch:
        return {"x": torch.randn(16, 8, generator=torch.Generator().manual_seed(offset + step))}

    return make


def phases() -> tuple[Phase, ...]:
    loop = LoopSettings(
        steps=12,
        lr=1e-2,
        warmup=2,
        precision="no",
        checkpoint_every=4,
        ema=0.9,
        players={"critic": {"lr": 3e-3, "betas": (0.5, 0.9), "clip": 0.3, "ema": 0.0}},
    )
    return (
        Phase(
            name="alone", loop=replace(loop, steps=6), learn=("encoder.*", "decoder.*"), options={"pull": 0.0}
        ),
        Phase(name="game", loop=loop),
    )


def play(objective: Game, folder: Path, stop: tuple[str, int] | None = None) -> Game:
    train_phases(objective, phases(), batches, folder, workers=0, stop_after=stop, console=QUIET)
    return objective


if __name__ == "__main__":
    for simultaneous in (False, True):
        folder = Path(sys.argv[1]) / str(simultaneous)
        for stop in (("game", 5), None):  # the second time, it goes on
            play(Game(simultaneous=simultaneous), folder, stop)
    rank = torch.distributed.get_rank()
    print(gathered(torch.full((1 + 2 * rank, 2), float(rank)))[:, 1].tolist(), flush=True)
