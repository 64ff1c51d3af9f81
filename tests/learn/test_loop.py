"""The training loop: it learns, it resumes bit for bit, it refuses checkpoints of something else."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from tokenry.learn.loop import (
    Batch,
    Figures,
    LoopSettings,
    Objective,
    latest_checkpoint,
    load_checkpoint,
    train,
)
from tokenry.tokens.errors import TokenryError

QUIET = Console(quiet=True)


class Regression(Objective):
    """Fits a random linear map; ``frozen`` must not move when its factor is 0."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Linear(16, 2))
        self.frozen = nn.Linear(2, 2)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        loss = (self.frozen(self.body(batch["x"])) - batch["y"]).square().mean()
        return loss, {"error": loss.detach().sqrt()}


def batches(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=generator)
    return {"x": x, "y": x[:, :2] * 2}


def settings(**changes: object) -> LoopSettings:
    return LoopSettings(
        **({"steps": 30, "lr": 1e-2, "warmup": 3, "checkpoint_every": 10, "precision": "no"} | changes)
    )


def weights(objective: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = weights(train(Regression(), batches, settings(), tmp_path / "whole", workers=0, console=QUIET))
    for stop in (13, 20):  # between checkpoints and on one
        train(
            Regression(), batches, settings(), tmp_path / "parts", workers=0, stop_after=stop, console=QUIET
        )
    resumed = weights(train(Regression(), batches, settings(), tmp_path / "parts", workers=0, console=QUIET))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_that_dies_loses_only_what_came_after_its_last_checkpoint(tmp_path: Path) -> None:
    def dies(step: int) -> Batch:
        if step == 17:
            raise KeyboardInterrupt
        return batches(step)

    whole = weights(train(Regression(), batches, settings(), tmp_path / "whole", workers=0, console=QUIET))
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), dies, settings(), tmp_path / "run", workers=0, console=QUIET)
    (tmp_path / "run" / ".step-0000020.tmp").mkdir()  # what a kill in the middle of writing leaves
    found = latest_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.name == "step-0000010"
    resumed = weights(train(Regression(), batches, settings(), tmp_path / "run", workers=0, console=QUIET))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_it_learns_and_logs_and_keeps_two_checkpoints(tmp_path: Path) -> None:
    seen: list[int] = []
    train(
        Regression(),
        batches,
        settings(steps=200),
        tmp_path,
        workers=0,
        on_checkpoint=seen.append,
        console=QUIET,
    )
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(10, 201, 10))
    assert log[-1]["loss"] < 0.2 * log[0]["loss"]
    assert seen == list(range(10, 201, 10))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000190", "step-0000200"]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = weights(train(Regression(), batches, settings(), tmp_path, workers=0, console=QUIET))
    again = weights(train(Regression(), batches, settings(), tmp_path, workers=0, console=QUIET))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_factor_zero_freezes_and_the_longest_prefix_wins(tmp_path: Path) -> None:
    before = weights(Regression())
    scale = {"frozen": 0.0, "body": 0.0, "body.2": 1.0}
    after = weights(
        train(Regression(), batches, settings(lr_scale=scale), tmp_path, workers=0, console=QUIET)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"body.2.weight", "body.2.bias"}


def test_rate_warms_up_and_decays() -> None:
    loop = settings(steps=100, warmup=10, final=0.1)
    rates = [loop.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    train(Regression(), batches, settings(steps=5), tmp_path, workers=0, console=QUIET)
    path = latest_checkpoint(tmp_path)
    assert path is not None
    with pytest.raises(TokenryError, match="does not fit"):
        load_checkpoint(path, Regression(width=9))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    def poisoned(step: int) -> Batch:
        return {key: value * float("nan") for key, value in batches(step).items()}

    with pytest.raises(TokenryError, match="lower the learning rate"):
        train(Regression(), poisoned, settings(), tmp_path, workers=0, console=QUIET)
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("changes", [{"steps": 0}, {"checkpoint_every": 0}, {"precision": "int3"}])
def test_bad_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TokenryError):
        settings(**changes)
