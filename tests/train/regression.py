"""The small training of the tests of the loop; as a script, what several processes run.

``python -m tests.train.regression FOLDER [STOP_AFTER]`` (from the root of the repository).
"""

import sys
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from tokenry.train.loop import Batch, Figures, LoopSettings, Objective, train

QUIET = Console(quiet=True)


class Regression(Objective):
    """Fits a random linear map; ``fixed`` must not move when its factor is 0, ``unused`` is in no loss."""

    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 2))
        self.fixed = nn.Linear(2, 2)
        self.unused = nn.Linear(2, 2)
        self.tied = self.fixed

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        error = self.fixed(self.body(batch["x"])) - batch["y"]
        return error.square().mean(), {"error": error.detach().abs().mean()}


def batches(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=generator)
    return {"x": x, "y": x[:, :2] * 2}


def settings(**changes: object) -> LoopSettings:
    return LoopSettings(
        **({"steps": 30, "lr": 1e-2, "warmup": 3, "checkpoint_every": 10, "precision": "no"} | changes)
    )


if __name__ == "__main__":
    train(
        Regression(),
        batches,
        settings(),
        Path(sys.argv[1]),
        workers=0,
        stop_after=int(sys.argv[2]) if len(sys.argv) > 2 else None,
        on_checkpoint=lambda step: print("checkpoint", step, flush=True),
        console=QUIET,
    )
