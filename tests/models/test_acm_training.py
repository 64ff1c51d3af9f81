"""The three phases of Adaptive Computation Modules: labels, losses, and that each phase learns what it is for."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.models.test_acm import llama, vit
from tokenry.models.adaptive.acm.conversion import convert
from tokenry.models.adaptive.acm.layer import AcmConfig
from tokenry.models.adaptive.acm.training import (
    EndToEnd,
    EndToEndWeights,
    GatePretraining,
    ModuleDistillation,
    diversity_loss,
    entropy_loss,
    gate_labels,
)
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, LoopSettings, train

QUIET = Console(quiet=True)


def pictures(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 3, (16,), generator=generator)
    pixels = torch.rand(16, 3, 16, 16, generator=generator) * 0.2
    for row, label in enumerate(labels.tolist()):
        pixels[row, label, 4:12, 4:12] += 1  # a square in one of three colours
    return {"pixel_values": pixels, "labels": labels}


def text(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(5, 60, (4, 1), generator=generator) + torch.arange(10)
    mask = torch.ones_like(ids)
    mask[::2, 7:] = 0
    return {"input_ids": 5 + (ids - 5) % 55, "attention_mask": mask}


def settings(steps: int = 40, lr: float = 3e-3) -> LoopSettings:
    return LoopSettings(steps=steps, lr=lr, warmup=2, precision="no", checkpoint_every=1000, weight_decay=0.0)


# ---------------------------------------------------------------------------------------------------------- labels


def test_labels_by_the_rule_and_as_coded() -> None:
    errors = torch.tensor([[10, 5, 4.5, 4.4, 4.38], [1, 0.95, 0.94, 0.93, 0.92]])
    assert gate_labels(errors).tolist() == [1, 0]
    assert gate_labels(errors, as_coded=True).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("errors", "minimum", "rule", "coded"),
    [
        ([16.0, 8, 4, 2, 1], 0, 4, 4),  # every learner is worth running: the last label
        ([16.0, 8, 4, 2, 1.9], 0, 3, 4),
        ([1.0, 0.95, 0.5, 0.49, 0.48], 0, 0, 4),  # the first stop counts, whatever comes later
        ([1.0, 0.95, 0.5, 0.49, 0.48], 1, 2, 4),  # from the minimum on: 0.95 / 0.5 is worth it
        ([0.0, 0, 0, 0, 0], 0, 0, 4),  # nothing to gain
        ([5.0, 0, 0, 0, 0], 0, 1, 2),
    ],
)
def test_labels_at_the_edges(errors: list[float], minimum: int, rule: int, coded: int) -> None:
    assert gate_labels(torch.tensor(errors), minimum=minimum).item() == rule
    assert gate_labels(torch.tensor(errors) + 1e-12, as_coded=True).item() == coded


# ---------------------------------------------------------------------------------------------------------- losses


def one_hot(choices: list[list[int]]) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(choices), 5).float()


def test_entropy_is_minus_one_for_all_choices_equally_and_zero_for_one() -> None:
    assert entropy_loss({"a": one_hot([[0, 1, 2, 3, 4]])}).item() == pytest.approx(-1)
    assert entropy_loss({"a": one_hot([[2] * 5])}).item() == pytest.approx(0, abs=1e-6)
    # within a sequence, not over the batch
    assert entropy_loss({"a": one_hot([[0] * 3, [4] * 3])}).item() == pytest.approx(0, abs=1e-6)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    padded = one_hot([[0, 1, 2, 3, 4, 0, 0, 0]])
    assert entropy_loss({"a": padded}, mask).item() == pytest.approx(-1)


def test_diversity_is_of_what_sequences_choose_on_average() -> None:
    gates = {"a": one_hot([[0, 4], [2, 2]])}  # both choose 2 on average
    assert diversity_loss(gates).item() == pytest.approx(0)
    gates = {"a": one_hot([[0, 0], [4, 4]]), "b": one_hot([[1, 1], [1, 1]])}
    # means over modules 0.5 / 5 and 2.5 / 5; of four ordered pairs two differ, by 0.4
    assert diversity_loss(gates).item() == pytest.approx(-2 * 0.4 / 2)


# ---------------------------------------------------------------------------------------------------------- phases


@pytest.mark.parametrize("form", ["mlp", "layer"])
def test_distillation_trains_learners_only_and_brings_them_nearer(tmp_path: Path, form: str) -> None:
    model = llama()
    converted = convert(model, AcmConfig(form=form))
    before = copy.deepcopy(model.state_dict())
    objective = ModuleDistillation(converted, relative=True)
    first, figures = objective(text(0))
    first = float(first.detach())
    train(objective, text, settings(60, 1e-2), tmp_path, workers=0, console=QUIET)
    last, after = objective(text(0))
    assert float(last.detach()) < 0.6 * first
    assert after["relative error"] < figures["relative error"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is (".mlp." not in name or ".gate." in name), name


def test_distillation_is_the_mean_over_all_prefix_sums_and_leaves_padding_out() -> None:
    model, batch = llama(), text(0)
    converted = convert(model)
    loss, _ = ModuleDistillation(converted)(batch)
    mask, expected = batch["attention_mask"].bool(), []
    for name, (x, y) in converted.recorded(**batch).items():
        for k in range(5):
            error = converted.acms[name].prefix(x, k) - y
            expected.append(error[mask].square().mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_gates_learn_the_labels(tmp_path: Path) -> None:
    converted = convert(vit())
    objective = GatePretraining(converted)
    before = copy.deepcopy(converted.model.state_dict())
    _, first = objective(pictures(0))
    train(objective, pictures, settings(40, 1e-2), tmp_path, workers=0, console=QUIET)
    _, last = objective(pictures(0))
    assert last["right"] > max(0.6, float(first["right"]))
    changed = {n for n, v in converted.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(".gate." in name for name in changed)


def test_gates_as_coded_learn_too() -> None:
    objective = GatePretraining(convert(vit(), AcmConfig(as_coded=True))).train()
    loss, _ = objective(pictures(0))
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters())


@pytest.mark.parametrize("target", [0.25, 0.75])
def test_end_to_end_keeps_to_the_budget_and_learns_the_task(tmp_path: Path, target: float) -> None:
    model = vit()
    objective = EndToEnd(convert(model), target, EndToEndWeights(budget=1.0))
    train(objective, pictures, settings(60), tmp_path, workers=0, console=QUIET)
    with torch.no_grad():
        _, figures = objective(pictures(999))  # as in training, where choices are drawn
        batch = pictures(1000)
        right = (model.eval()(batch["pixel_values"]).logits.argmax(-1) == batch["labels"]).float().mean()
    assert float(figures["computation"]) == pytest.approx(target, abs=0.1)
    assert right > 0.9


def test_end_to_end_on_a_language_model_is_the_sum_of_its_parts() -> None:
    model, batch = llama(), text(0)
    converted = convert(model)
    model.eval()  # gates choose without noise
    loss, figures = EndToEnd(converted, 0.5)(batch)
    with converted.watch() as watched:
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        task = model(**batch, labels=labels).loss
    mask = batch["attention_mask"].bool()
    expected = (
        task
        + 0.1 * (figures["computation"] - 0.5).abs()
        + 0.05 * entropy_loss(watched.gates, mask)
        + 0.05 * diversity_loss(watched.gates, mask)
    )
    torch.testing.assert_close(loss, expected)


def test_bad_input() -> None:
    converted = convert(vit(), modules="linear")
    with pytest.raises(InputError, match=r"from 0.25 to 1, got 0.1"):
        EndToEnd(converted, 0.1)
    with converted.forced(2), pytest.raises(InputError, match="leave `with_gates` first"):
        GatePretraining(converted)
    with pytest.raises(InputError, match="at least one learner and none"):
        gate_labels(torch.zeros(3, 1))
    with pytest.raises(InputError, match="ratio of at least 1"):
        gate_labels(torch.zeros(3, 2), ratio=0.5)
