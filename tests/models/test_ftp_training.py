"""Training of FTP models: the positions asked follow the step; the loss falls."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.laws.networks.tiny import build
from tokenry.models.language.ftp.training import FutureTokenPrediction, adjacent_cosine, with_positions
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings, train


def batches(step: int) -> Batch:
    first = torch.randint(1, 41, (8, 1), generator=torch.Generator().manual_seed(step))
    return {"input_ids": (first + torch.arange(16)) % 41}


def test_positions_follow_the_step() -> None:
    make = with_positions(batches, 0.4)
    positions = make(3)["positions"]
    assert positions.shape == (8, 6)
    assert torch.equal(positions, make(3)["positions"])
    assert (positions[:, 1:] > positions[:, :-1]).all()
    seen = torch.cat([make(step)["positions"] for step in range(50)]).unique()
    assert seen.tolist() == list(range(15))  # the last position has no target
    assert with_positions(batches, 0.001)(0)["positions"].shape == (8, 1)
    with pytest.raises(InputError, match="share of positions"):
        with_positions(batches, 0.0)


def test_the_loss_falls(tmp_path: Path) -> None:
    objective = FutureTokenPrediction(build("ftp").model)
    before = objective(batches(0))[0].item()
    settings = LoopSettings(steps=60, lr=3e-3, warmup=5, checkpoint_every=60)
    quiet = Console(quiet=True)
    trained = train(objective, with_positions(batches), settings, tmp_path, workers=0, console=quiet).eval()
    loss, figures = trained(batches(0))
    assert loss.item() < 0.5 * before
    assert -1 <= figures["adjacent"] <= 1


def test_adjacent_cosine() -> None:
    states = torch.tensor([[[1.0, 0], [0, 2], [0, 5], [3, 3]]])
    assert adjacent_cosine(states).item() == pytest.approx((0 + 1 + 0.5**0.5) / 3)
