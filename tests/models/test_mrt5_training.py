"""The MrT5 objective: what deletion is paid, and that a resumed run pays the same."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.laws.networks.tiny import build
from tests.laws.networks.tiny.mrt5 import config
from tokenry.models.mrt5.model import MrT5ForConditionalGeneration
from tokenry.models.mrt5.training import MrT5Objective, deletion_rate
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings, train
from tokenry.train.rate_control import PIController

QUIET = Console(quiet=True)


def batches(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 40, (8, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[::2, 9:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": ids[:, :4]}


def settings(**changes: object) -> LoopSettings:
    return LoopSettings(
        **dict(steps=40, lr=3e-3, warmup=2, precision="no", checkpoint_every=20, weight_decay=0.0) | changes
    )


def test_the_rate_leaves_padding_out() -> None:
    gates = torch.tensor([[-1.0, -20, -30, -30], [-16.0, -15, -14, -30]])
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    assert deletion_rate(gates, mask, -15.0).item() == pytest.approx(3 / 6)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    model, batch = build("mrt5").model.train(), batches(0)
    plain, figures = MrT5Objective(model)(batch)
    assert plain == figures["cross-entropy"]
    output = model(**batch, penalise=True)
    mean = output.gates[batch["attention_mask"].bool()].mean()
    paid, _ = MrT5Objective(model, alpha=0.01, beta=0.5)(batch)
    torch.testing.assert_close(paid, output.loss + 0.01 * mean + 0.5 * output.score_penalty)
    late, _ = MrT5Objective(model, alpha=0.01, delay=1)(batch)
    torch.testing.assert_close(late, plain)
    clamped, _ = MrT5Objective(model, alpha=0.01, clamp=True)(batch)
    torch.testing.assert_close(
        clamped, output.loss + 0.01 * mean
    )  # twice the threshold is k itself by default


def test_alpha_counts_from_the_next_step_on() -> None:
    objective, batch = MrT5Objective(build("mrt5").model, 0.9).train(), batches(0)
    first, figures = objective(batch)
    assert figures["alpha"] == 0
    assert first == figures["cross-entropy"]
    second, figures = objective(batch)
    assert figures["alpha"] > 0
    assert second < figures["cross-entropy"]
    objective.eval()
    alpha = objective.controller.alpha.clone()
    objective(batch)
    assert objective.controller.alpha == alpha


def test_the_rate_goes_where_it_is_told(tmp_path: Path) -> None:
    objective = MrT5Objective(build("mrt5").model, 0.75, controller=PIController(kp=0.05))
    trained = train(objective, batches, settings(steps=120, lr=1e-3), tmp_path, workers=0, console=QUIET)
    with torch.no_grad():
        rate = trained(batches(1000))[1]["deleted"]
    assert rate.item() == pytest.approx(0.75, abs=0.15)


def test_a_resumed_run_has_the_same_controller(tmp_path: Path) -> None:
    def run(folder: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
        objective = MrT5Objective(build("mrt5").model, 0.5, delay=5, hard_share=0.3)
        return dict(
            train(
                objective, batches, settings(), folder, workers=0, stop_after=stop, console=QUIET
            ).state_dict()
        )

    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", 13)
    parts = run(tmp_path / "parts")
    assert whole["steps"] == 40
    assert whole["controller.p"] != 0
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_some_steps_delete_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = MrT5Objective(build("mrt5").model, 0.5, hard_share=0.25).train()
    seen = []
    forward = objective.model.forward
    monkeypatch.setattr(
        objective.model, "forward", lambda **given: seen.append(given["deletion"]) or forward(**given)
    )
    for step in range(8):
        objective(batches(step))
    assert seen == [None, None, None, "hard"] * 2


@pytest.mark.parametrize("gate", ["none", "random", "fixed"])
def test_baselines_are_trained_on_their_cross_entropy(gate: str) -> None:
    torch.manual_seed(0)
    objective = MrT5Objective(MrT5ForConditionalGeneration(config(gate=gate)), 0.5)
    loss, figures = objective(batches(0))
    assert loss == figures["cross-entropy"]
    assert "alpha" not in figures


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="deletion rate in"):
        MrT5Objective(build("mrt5").model, 1.2)
