"""Players, averages, phases, frozen teachers, shared draws: each by itself, and all of them at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.train.game import CODES, QUIET, Game, batches, phases, play
from tests.train.regression import Regression, settings
from tests.train.regression import batches as rows
from tests.train.test_loop import launch
from tokenry.tokens.errors import InputError, TokenryError
from tokenry.train.checkpoints import latest_checkpoint, load_checkpoint
from tokenry.train.loop import LoopSettings, train
from tokenry.train.objective import Objective
from tokenry.train.optimisers import sides
from tokenry.train.phases import Phase, phase_at, train_phases
from tokenry.train.players import adaptive_weight
from tokenry.train.processes import gathered

FILES = {
    "model.safetensors",
    "optimizer.generator.safetensors",
    "optimizer.critic.safetensors",
    "average.safetensors",
}


def saved(folder: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint of the game's last phase, by file and name."""
    path = latest_checkpoint(folder / "game")
    assert path is not None
    assert {file.name for file in path.glob("*.safetensors")} == FILES
    return {
        f"{file.name}:{name}": tensor
        for file in path.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# ---------------------------------------------------------------------------------------------- everything at once


@pytest.mark.parametrize("simultaneous", [False, True])
def test_a_game_that_is_stopped_again_and_again_is_that_of_one_go(tmp_path: Path, simultaneous: bool) -> None:
    whole = play(Game(0.2, simultaneous=simultaneous), tmp_path / "whole")
    assert whole.restarts > CODES / 2  # or nothing is shown about them
    parts = tmp_path / "parts"
    for stop in (("alone", 3), ("alone", 6), ("game", 5), ("game", 8), None):
        play(Game(0.2, simultaneous=simultaneous), parts, stop)
    expected, found = saved(tmp_path / "whole"), saved(parts)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_two_processes_play_what_one_plays(tmp_path: Path) -> None:
    done = launch("tests.train.game", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[0.0, 1.0, 1.0, 1.0]") == 2  # one row of the first, three of the second
    for simultaneous in (False, True):
        one = play(Game(simultaneous=simultaneous), tmp_path / "one" / str(simultaneous))
        assert one.restarts > CODES / 2
        expected, found = (saved(tmp_path / run / str(simultaneous)) for run in ("one", "two"))
        assert expected.keys() == found.keys()
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)


# ---------------------------------------------------------------------------------------------------------- players


class Still(Game):
    """Somebody does not move."""

    moving: Sequence[str] = ()

    def turns(self) -> Sequence[str]:
        return self.moving


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_what_one_player_does_leaves_the_other_as_it_was(tmp_path: Path, player: str) -> None:
    game = Still()
    game.moving = (player,)
    game.made = torch.randn(16, 8)
    game.vectors = torch.randn(16, 4)
    before = state(game)
    loop = replace(phases()[1].loop, steps=3, ema=0.0)
    train(game, batches(phases()[1]), loop, tmp_path, workers=0, console=QUIET)
    moved = {name for name, tensor in game.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved - {"codebook", "count"} == sides(game)[player].keys()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in game.parameters())
    idle = next(name for name in game.players if name != player)
    assert load_file(tmp_path / "step-0000003" / f"optimizer.{idle}.safetensors") == {}


class Duel(Objective):
    """x pulls a product up, y pulls it down: what each meets depends on whether the other has moved."""

    players: ClassVar = {"x": ("x",), "y": ("y",)}

    def __init__(self, simultaneous: bool) -> None:
        super().__init__()
        self.x, self.y = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
        self.simultaneous, self.met = simultaneous, []

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.met.append((self.player, round(self.x.item(), 4), round(self.y.item(), 4)))
        product = (self.x * self.y).sum()
        return product if self.player == "x" else -product, {}


@pytest.mark.parametrize(("simultaneous", "second"), [(False, 0.9), (True, 1.0)])
def test_players_take_turns_or_move_at_once_each_at_its_own_rate(
    tmp_path: Path, simultaneous: bool, second: float
) -> None:
    duel = Duel(simultaneous)
    loop = LoopSettings(
        2,
        lr=0.1,
        warmup=1,
        weight_decay=0.0,
        precision="no",
        clip=1e9,
        players={"y": {"lr": 0.5, "final": 1.0}},
    )
    train(duel, lambda step: {"row": torch.zeros(2)}, loop, tmp_path, workers=0, console=QUIET)
    assert duel.met[:2] == [("x", 1.0, 2.0), ("y", second, 2.0)]  # Adam's first step is the rate
    assert duel.met[2] == ("x", 0.9, 2.5)
    log = json.loads((tmp_path / "log.jsonl").read_text())
    assert log.keys() == {"step", "x", "y"}


def test_every_parameter_is_of_one_player(monkeypatch: pytest.MonkeyPatch) -> None:
    game = Game()
    assert [len(side) for side in sides(game).values()] == [8, 3]
    monkeypatch.setattr(Game, "players", {"generator": ("encoder.*",), "critic": ("critic.*",)})
    with pytest.raises(InputError, match=r"decoder\.1\.weight is of none"):
        sides(game)
    monkeypatch.setattr(Game, "players", {"generator": ("*",), "critic": ("critic.*",)})
    with pytest.raises(InputError, match=r"critic\.0\.weight is of generator and critic"):
        sides(game)


def test_settings_of_players_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot have steps of its own"):
        LoopSettings(3, players={"critic": {"steps": 2}})
    loop = LoopSettings(3, precision="no", players={"judge": {"lr": 2.0}})
    with pytest.raises(InputError, match="judge, who is no player of Game: it has generator, critic"):
        train(Game(), batches(phases()[0]), loop, tmp_path, workers=0, console=QUIET)
    with pytest.raises(InputError, match="move at once"):
        train(
            Game(simultaneous=True),
            batches(phases()[0]),
            LoopSettings(3, precision="fp16"),
            tmp_path,
            workers=0,
            console=QUIET,
        )


def test_a_critic_pulls_as_hard_as_the_task() -> None:
    at = nn.Parameter(torch.tensor([3.0, 4.0]))
    task, judged = (at * torch.tensor([3.0, 4.0])).sum(), 0.1 * (at * torch.tensor([0.0, 1.0])).sum()
    assert adaptive_weight(task, judged, at).item() == pytest.approx(50, rel=1e-4)
    assert adaptive_weight(task, judged * 0, at).item() == 1e4
    assert not adaptive_weight(task, judged, at).requires_grad
    with pytest.raises(InputError, match="does not learn in this turn"):
        adaptive_weight(task, judged, at.requires_grad_(False))


# --------------------------------------------------------------------------------------------------------- averages


def test_the_average_is_the_rule_and_is_lent_without_a_trace(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = [state(Regression())]

    class Watched(Regression):
        def stepped(self) -> None:
            seen.append(state(self))

    objective = Watched()
    train(objective, rows, settings(steps=15, ema=0.5), tmp_path, workers=0, console=QUIET)
    name = "body.0.weight"
    expected = seen[0][name]
    for step, weights in enumerate(seen[1:]):
        share = min(0.5, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * weights[name]
    last = state(objective)
    with objective.averaged():
        torch.testing.assert_close(objective.state_dict()[name], expected)
        assert not torch.equal(objective.state_dict()[name], last[name])
    assert all(torch.equal(tensor, last[name]) for name, tensor in objective.state_dict().items())

    path, other = tmp_path / "step-0000015", Regression()
    load_checkpoint(path, other, averaged=True)
    torch.testing.assert_close(other.state_dict()[name], expected)
    load_checkpoint(path, other)
    assert torch.equal(other.state_dict()[name], last[name])
    with pytest.raises(TokenryError, match="averaged weights, which are not asked for"):
        train(Regression(), rows, settings(steps=20), tmp_path, workers=0, console=QUIET)


def test_a_run_without_averages_lends_its_weights_and_does_not_go_on_with_any(tmp_path: Path) -> None:
    objective = Regression()
    train(objective, rows, settings(steps=2), tmp_path, workers=0, console=QUIET)
    before = state(objective)
    with objective.averaged() as lent:
        assert all(torch.equal(tensor, before[name]) for name, tensor in lent.state_dict().items())
    with pytest.raises(TokenryError, match="does not fit"):
        train(Regression(), rows, settings(steps=4, ema=0.9), tmp_path, workers=0, console=QUIET)
    with pytest.raises(TokenryError, match="does not fit"):
        load_checkpoint(tmp_path / "step-0000002", Regression(), averaged=True)
    with pytest.raises(InputError, match=r"got 1\.0"):
        settings(ema=1.0)


# ----------------------------------------------------------------------------------------------------------- frozen


def test_what_is_frozen_moves_along_and_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    game = Game()
    before = copy.deepcopy(game.teacher.state_dict())
    play(game, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in game.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in game.teacher.parameters())
    assert not game.teacher.training  # though the objective is
    assert not any("teacher" in name for name in saved(tmp_path))
    assert not any("teacher" in name for name, _ in game.named_parameters())
    game.double()
    assert {parameter.dtype for parameter in game.teacher.parameters()} == {torch.float64}


def test_of_a_frozen_module_what_is_the_objectives_goes_on_learning() -> None:
    class Head(Objective):
        network: nn.Module

        def __init__(self) -> None:
            super().__init__()
            network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
            self.head = network[2]
            self.frozen(network=network)

    objective = Head().train()
    assert [p.requires_grad for p in objective.network.parameters()] == [False, False, True, True]
    assert [module.training for module in objective.network.children()] == [False, False, True]
    assert sorted(objective.state_dict()) == ["head.bias", "head.weight"]


# ----------------------------------------------------------------------------------------------------------- phases


def test_a_phase_says_what_learns_and_how(tmp_path: Path) -> None:
    game = Game()
    before = state(game)
    play(game, tmp_path, ("alone", 6))
    moved = {name for name, tensor in game.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("critic") for name in moved)
    assert game.pull == 0
    (path,) = (tmp_path / "alone").glob("step-0000006")
    assert not (path / "optimizer.critic.safetensors").exists()  # it does not play
    play(game, tmp_path)
    assert game.pull == 1


def test_phases_that_are_over_are_not_looked_at_again(tmp_path: Path) -> None:
    first = play(Game(), tmp_path)
    (tmp_path / "alone" / "step-0000006" / "model.safetensors").unlink()
    again = play(Game(), tmp_path)
    assert all(torch.equal(tensor, state(again)[name]) for name, tensor in state(first).items())


def test_a_step_of_all_phases_falls_in_one() -> None:
    both = [Phase(name="one", loop=settings(steps=2)), Phase(name="two", loop=settings(steps=3))]
    found = [phase_at(both, step) for step in (1, 2, 3, 4, 5, 9, None)]
    assert found == [("one", 1), ("one", 2), ("two", 1), ("two", 2), None, None, None]


def test_phases_are_checked(tmp_path: Path) -> None:
    def run(*given: Phase, stop: tuple[str, int] | None = None) -> None:
        train_phases(
            Regression(), given, lambda phase: rows, tmp_path, workers=0, stop_after=stop, console=QUIET
        )

    phase = Phase(name="one", loop=settings(steps=2))
    with pytest.raises(InputError, match="no two of one name, got one, one"):
        run(phase, phase)
    with pytest.raises(InputError, match="no phase 'two' to stop in, but one"):
        run(phase, stop=("two", 1))
    with pytest.raises(InputError, match="Regression has no options for a phase, got pull"):
        run(replace(phase, options={"pull": 1}))
    with pytest.raises(InputError, match=r"No parameter has a name like head\.\*"):
        run(replace(phase, learn=("body.*", "head.*")))
    with pytest.raises(InputError, match="Nothing learns"):
        run(replace(phase, loop=settings(lr_scale={"": 0.0})))


# ---------------------------------------------------------------------------------------------------- shared draws


def test_what_is_shared_depends_on_seed_step_and_name_alone() -> None:
    def drawn(seed: int, step: int, name: str) -> int:
        objective = Regression()
        objective.begin(seed, step)
        torch.manual_seed(torch.seed())  # whatever else has been drawn
        return int(torch.randint(2**40, (), generator=objective.shared(name)))

    assert drawn(0, 3, "a") == drawn(0, 3, "a")
    assert len({drawn(0, 3, "a"), drawn(0, 3, "b"), drawn(0, 4, "a"), drawn(1, 3, "a")}) == 4


def test_one_process_gathers_its_own() -> None:
    vectors = torch.randn(3, 2)
    assert gathered(vectors) is vectors


# --------------------------------------------------------------------------------------------------------- identity


def test_runs_that_began_before_there_were_averages_and_players_go_on() -> None:
    assert set(LoopSettings(3).identity()) == {
        "steps", "lr", "warmup", "final", "lr_scale", "weight_decay", "betas", "clip", "precision", "seed",
    }  # fmt: skip
    assert LoopSettings(3, ema=0.9).identity()["ema"] == 0.9
