"""The training loop: it learns, it resumes bit for bit, it refuses checkpoints of something else."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.train.regression import QUIET, Regression, batches, settings
from tokenry.tokens.errors import InputError, TokenryError
from tokenry.train import loop
from tokenry.train.loop import Batch, latest_checkpoint, load_checkpoint, share, train

ROOT = Path(__file__).parents[2]


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


def test_ctrl_c_waits_for_the_step_and_keeps_it(tmp_path: Path) -> None:
    """Whatever is being done when it comes: no weights are half a step old."""

    def interrupted(step: int) -> Batch:
        if step == 16:
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    whole = weights(train(Regression(), batches, settings(), tmp_path / "whole", workers=0, console=QUIET))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(Regression(), interrupted, settings(), tmp_path / "run", workers=0, console=QUIET)
    assert signal.getsignal(signal.SIGINT) is before
    found = latest_checkpoint(tmp_path / "run")
    assert found is not None
    assert found.name == "step-0000017"
    resumed = weights(train(Regression(), batches, settings(), tmp_path / "run", workers=0, console=QUIET))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    def interrupted(step: int) -> Batch:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return pytest.fail("the step went on")

    with pytest.raises(KeyboardInterrupt):
        train(Regression(), interrupted, settings(), tmp_path, workers=0, console=QUIET)
    assert latest_checkpoint(tmp_path) is None


def test_checkpoints_fall_due_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 25 seconds: one after every minute, beside those that are evaluated."""
    now = [0.0]
    saved: list[tuple[int, float]] = []
    evaluated: list[int] = []
    save = loop.save_checkpoint

    def slowly(step: int) -> Batch:
        now[0] += 25
        return batches(step)

    def saving(folder: Path, objective: nn.Module, optimisers: Any, step: int, average: Any) -> Path:
        saved.append((step, now[0]))
        now[0] += 4 if step == 6 else 0  # a slow disk: the next one may wait, so that training goes on
        return save(folder, objective, optimisers, step, average)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(loop, "save_checkpoint", saving)
    train(
        Regression(),
        slowly,
        settings(steps=14, checkpoint_every=10),
        tmp_path,
        workers=0,
        on_checkpoint=evaluated.append,
        console=QUIET,
    )
    assert [step for step, _ in saved] == [3, 6, 10, 13, 14]
    assert evaluated == [10, 14]


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
    scale = {"fixed": 0.0, "body": 0.0, "body.3": 1.0}
    after = weights(
        train(Regression(), batches, settings(lr_scale=scale), tmp_path, workers=0, console=QUIET)
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"body.3.weight", "body.3.bias"}


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


def test_a_resumed_run_draws_the_same_dropout_and_leaves_the_generator_alone(tmp_path: Path) -> None:
    def run(folder: str, stop: int | None = None) -> dict[str, Tensor]:
        model = Regression(dropout=0.5)
        before = torch.get_rng_state()
        train(model, batches, settings(), tmp_path / folder, workers=0, stop_after=stop, console=QUIET)
        assert torch.equal(before, torch.get_rng_state())
        return weights(model)

    whole = run("whole")
    run("parts", stop=13)
    torch.manual_seed(1234)
    resumed = run("parts")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_second_training_may_have_another_precision(tmp_path: Path) -> None:
    for precision in ("no", "bf16", "no"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        train(Regression(), batches, settings(steps=2, precision=precision), folder, workers=0, console=QUIET)
        assert latest_checkpoint(folder) is not None


def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing fails in the same place, half way."""
    train(Regression(), batches, settings(), tmp_path, workers=0, stop_after=10, console=QUIET)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
    try:
        with pytest.raises(TokenryError, match=r"could not be written .*make room"):
            train(Regression(), batches, settings(), tmp_path, workers=0, stop_after=20, console=QUIET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "step-0000010"]
    train(Regression(), batches, settings(), tmp_path, workers=0, console=QUIET)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-0000020", "step-0000030"]


INTERRUPTED = """
import sys, time
from pathlib import Path
from tests.train.regression import QUIET, Regression, batches, settings
from tokenry.train.loop import train

def slowly(step):
    time.sleep(0.005)
    return batches(step)

train(Regression(), slowly, settings(steps=100000), Path(sys.argv[1]), workers=0, console=QUIET,
      on_checkpoint=lambda step: print(step, flush=True))
"""


def test_control_c_leaves_the_last_checkpoint_usable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for _ in range(3):
            run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    found = latest_checkpoint(tmp_path)
    assert found is not None
    step = load_checkpoint(found, Regression())
    assert step >= 20
    train(Regression(), batches, settings(steps=step + 10), tmp_path, workers=0, console=QUIET)
    assert load_checkpoint(tmp_path / f"step-{step + 10:07d}", Regression()) == step + 10


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in two processes, as `accelerate launch` does on two devices, here on the CPU through gloo."""
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--main_process_port", "0", "--mixed_precision", "no", "--num_machines", "1"]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *launcher, *options, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    train(Regression(), batches, settings(), tmp_path / "one", workers=0, console=QUIET)
    for stop in ("13", "30"):  # the second launch resumes
        done = launch("tests.train.regression", str(tmp_path / "two"), stop)
        assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["checkpoint 20", "checkpoint 30"]  # once: from the main process
    name = "step-0000030/model.safetensors"
    one, two = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("one", "two")]
    assert len(logs[0]) == 3
    for a, b in zip(logs[0], [line for line in logs[1] if '"step": 13' not in line], strict=True):
        assert json.loads(a) == pytest.approx(json.loads(b), rel=1e-3, abs=1e-4)


def test_processes_share_the_rows_of_a_batch() -> None:
    rows: Batch = {"x": torch.arange(6), "scale": torch.tensor(2.0)}
    shared = share(rows, process=1, processes=3)
    assert shared["x"].tolist() == [2, 3]
    assert shared["scale"] == 2
    with pytest.raises(InputError, match="multiple of 3"):
        share({"x": torch.arange(7)}, process=0, processes=3)
