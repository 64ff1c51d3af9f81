"""Training of Duo-LLM: random routing, small siblings of a trained model, routers within a budget."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from tokenry.models.adaptive.conditional import squared_budget_loss
from tokenry.models.adaptive.duo_llm.model import Choice, DuoForCausalLM, Mix, convert
from tokenry.models.adaptive.duo_llm.training import (
    RandomRouting,
    RouterTraining,
    annealed,
    big_share,
    fit_budget,
)
from tokenry.tokens.errors import InputError
from tokenry.train.language import TokenBatches, small_llama
from tokenry.train.loop import LoopSettings, latest_checkpoint, train


def duo(**changes: Any) -> DuoForCausalLM:
    return convert(
        small_llama(31, layers=2, width=32, heads=2), **{"small": 1 / 8, "start": "random"} | changes
    )


def counting(length: int = 400) -> Tensor:
    """A text that repeats: what there is to learn is learnt in a few steps."""
    return torch.arange(length) % 7 + 1


BATCHES = TokenBatches(counting(), length=16, batch=4)


def run(objective: Any, folder: Path, steps: int = 30, **more: Any) -> Any:
    stop = more.pop("stop_after", None)
    settings = LoopSettings(steps=steps, lr=1e-2, warmup=2, precision="no")
    batches = more.pop("batches", BATCHES)
    return train(
        objective, batches, settings, folder, workers=0, stop_after=stop, console=Console(file=io.StringIO())
    )


def weights(model: DuoForCausalLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: DuoForCausalLM) -> set[str]:
    """Which kinds of weights are others than before."""
    after = model.state_dict()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    kinds = ("small", "big", "router")
    return {next((kind for kind in kinds if f".{kind}." in name), "rest") for name in names}


# ------------------------------------------------------------------------------------------- stage 1


def test_the_loss_is_that_of_the_routing_that_was_drawn() -> None:
    model, batch = duo(skip=True).eval(), BATCHES(0)
    torch.manual_seed(3)
    with model.traced() as trace:
        loss, figures = RandomRouting(model)(batch)
    with model.routed(trace.choices):
        expected = model(batch["input_ids"], labels=batch["input_ids"]).loss
    torch.testing.assert_close(loss, expected)
    assert figures["bits_per_token"].item() == pytest.approx(expected.item() / math.log(2))


@pytest.mark.parametrize(
    ("skip", "probabilities", "expected"),
    [(False, None, (1 / 2, 1 / 2, 0)), (True, None, (1 / 3,) * 3), (True, (1, 2, 1), (1 / 4, 1 / 2, 1 / 4))],
)
def test_choices_are_drawn_for_each_token_and_layer(skip: bool, probabilities: Any, expected: Any) -> None:
    model = duo(skip=skip).eval()
    with model.traced() as trace, torch.no_grad():
        RandomRouting(model, probabilities=probabilities)({"input_ids": counting(4000).view(40, 100)})
    share = torch.bincount(trace.choices.flatten(), minlength=3) / trace.choices.numel()
    torch.testing.assert_close(share, torch.tensor(expected), atol=0.03, rtol=0)
    same = (trace.choices[:, :, 0] == trace.choices[:, :, 1]).float().mean().item()
    assert same == pytest.approx(sum(p * p for p in expected), abs=0.03)  # layers choose by themselves


def test_from_scratch_both_layers_learn_to_serve(tmp_path: Path) -> None:
    model = duo()
    run(RandomRouting(model), tmp_path, steps=60)
    model.eval()
    ids = counting(30)[None]
    with torch.no_grad():
        for routing in ("big", "small", [0, 1], [1, 0]):
            with model.routed(routing):
                assert model(ids, labels=ids).loss < 0.3 * math.log(7)


@pytest.mark.parametrize("lm", [0.0, 1.0])
def test_of_a_trained_model_only_the_small_layers_learn(lm: float, tmp_path: Path) -> None:
    model = duo()
    before = weights(model)
    objective = RandomRouting(model, learn="small", lm=lm, distil=1.0)
    first = objective(BATCHES(0))[1]["distance"]
    run(objective, tmp_path)
    assert changed(before, model) == {"small"}
    assert objective(BATCHES(0))[1]["distance"] < 0.7 * first
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    saved = load_file(checkpoint / "model.safetensors")
    assert sum(v.numel() for v in saved.values()) == sum(
        p.numel() for part in model.feed_forwards for p in part.small.parameters()
    )


def test_distance_is_a_share_of_the_big_layers_output() -> None:
    model = duo().eval()
    objective = RandomRouting(model, learn="small", lm=0.0, distil=1.0)
    for part in model.feed_forwards:
        part.small.down_proj.weight.data.zero_()
    assert objective(BATCHES(0))[0].item() == pytest.approx(1.0)  # nothing comes out: all of it is missing
    same = RandomRouting(duo(small=1.0, start="pruned").eval(), learn="small", lm=0.0, distil=1.0)
    assert same(BATCHES(0))[0].item() == pytest.approx(0.0, abs=1e-10)


def test_padding_counts_for_nothing() -> None:
    model = duo().eval()
    objective = RandomRouting(model, learn="small", lm=0.0, distil=1.0, probabilities=(0, 1))
    ids = counting(24).view(2, 12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    other = ids.clone()
    other[0, :5] = 9
    losses = [objective({"input_ids": x, "attention_mask": mask})[0] for x in (ids, other)]
    torch.testing.assert_close(losses[0], losses[1])


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, parts = duo(), duo()
    run(RandomRouting(whole, learn="small", distil=0.5), tmp_path / "a", steps=6)
    run(RandomRouting(parts, learn="small", distil=0.5), tmp_path / "b", steps=6, stop_after=3)
    again = duo()
    run(RandomRouting(again, learn="small", distil=0.5), tmp_path / "b", steps=6)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


# ------------------------------------------------------------------------------------------- stage 3


def test_the_budget_is_one_for_all_layers() -> None:
    probabilities = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.75, 0.25], [0.25, 0.75]]).expand(2, 5, 4, 2)
    share = big_share(probabilities)
    assert squared_budget_loss(share, 0.5).item() == 0
    assert squared_budget_loss(share, 0.25).item() == pytest.approx(1 / 16)
    with_skip = torch.tensor([[0.5, 0.25, 0.25]]).expand(2, 5, 4, 3)
    assert big_share(with_skip).item() == 0.25
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[0] = 0
    uneven = torch.stack([torch.zeros(5, 4, 2), torch.ones(5, 4, 2) / 2])
    assert big_share(uneven, mask).item() == 0.5


@pytest.mark.parametrize("gumbel", [False, True])
def test_routers_learn_the_budget_and_nothing_else_moves(gumbel: bool, tmp_path: Path) -> None:
    model = duo()
    before = weights(model)
    objective = RouterTraining(model, 0.25, weight=50.0, gumbel=gumbel)
    run(objective, tmp_path, batches=annealed(BATCHES, 30))
    assert changed(before, model) == {"router"}
    batch = BATCHES(0) | {"temperature": torch.tensor(1.0)}
    shares = torch.stack([objective(batch)[1]["big"] for _ in range(20)])
    assert shares.mean().item() == pytest.approx(0.25, abs=0.08)


def test_the_loss_of_a_router_is_model_and_budget() -> None:
    model, batch = duo().eval(), BATCHES(0)
    loss, figures = RouterTraining(model, 0.9, weight=7.0)(batch | {"temperature": torch.tensor(0.5)})
    with model.routed(Mix(0.5)):
        expected = model(batch["input_ids"], labels=batch["input_ids"]).loss
    torch.testing.assert_close(loss, expected + 7.0 * (figures["big"] - 0.9) ** 2)


def test_a_router_finds_the_layer_that_helps(tmp_path: Path) -> None:
    """Half of the layers may be big; in the first, the big one is put out of order: the budget goes to the second."""
    model = duo()
    run(RandomRouting(model), tmp_path / "1", steps=60)
    with torch.no_grad():
        model.feed_forwards[0].big.down_proj.weight.copy_(-3 * model.feed_forwards[0].big.down_proj.weight)
    run(RouterTraining(model, 0.5), tmp_path / "3", steps=40, batches=annealed(BATCHES, 40))
    fit_budget(model.eval(), counting(200).view(4, 50), 0.5)
    with model.routed("router"), model.traced() as trace, torch.no_grad():
        model(counting(200).view(4, 50))
    first, second = (trace.choices == Choice.BIG).float().mean((0, 1)).tolist()
    assert second > first + 0.25


def test_temperatures_fall_from_start_to_end() -> None:
    made = annealed(BATCHES, 11, start=2.0, end=0.02)
    assert torch.equal(made(3)["input_ids"], BATCHES(3)["input_ids"])
    values = [made(step)["temperature"].item() for step in (0, 5, 10, 99)]
    assert values == pytest.approx([2.0, 0.2, 0.02, 0.02])


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_fitting_puts_hard_choices_on_the_budget(target: float) -> None:
    model = duo().train()
    for part in model.feed_forwards:
        torch.nn.init.normal_(part.router.weight, generator=torch.Generator().manual_seed(part.layer))
    ids = torch.randint(1, 31, (4, 64), generator=torch.Generator().manual_seed(0))
    found = fit_budget(model, ids, target)
    assert found == pytest.approx(target, abs=0.02)
    assert model.training
    model.eval()
    with model.routed("router"), model.traced() as trace, torch.no_grad():
        model(ids)
    assert (trace.choices == Choice.BIG).float().mean().item() == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: RandomRouting(m, learn="big"), "'big'"),
        (lambda m: RandomRouting(m, lm=0.0), "not both 0"),
        (lambda m: RandomRouting(m, probabilities=(1, 1, 1)), "2 choices"),
        (lambda m: RandomRouting(m, probabilities=(0, 0)), "probability"),
        (lambda m: RouterTraining(m, 1.5), "got 1.5"),
        (lambda m: RouterTraining(m, 0.5, learn="small"), "'small'"),
        (lambda m: annealed(BATCHES, 3, end=0.0), "above 0"),
        (lambda m: fit_budget(m, counting(20)[None], -0.1), "got -0.1"),
    ],
)
def test_what_cannot_be(call: Callable[[DuoForCausalLM], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(duo())
