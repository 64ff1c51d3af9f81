"""`tokenry decode bench`: calibration, a table, a file, and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.text.transplant import tiny
from tokenry.bench.decoders import compare as decoding
from tokenry.cli.main import app
from tokenry.cli.terminal import FAILED, USER_ERROR


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are written where the command is called."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and prompts."""
    folder = tmp_path_factory.mktemp("decoding")
    tokenizer = tiny.byte_level()
    tiny.llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = [
        {"prompt": "the cat sat", "class": "cats"},
        {"prompt": "a b a b"},
        {"prompt": "more", "class": "cats"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def call(place: Path, *extra: str | Path, model: str = "model") -> Result:
    words = ["decode", "bench", place / model, "--dtype", "float32", "--max-new-tokens", "5", "--rounds", "1"]
    prompts = [] if "--prompts" in extra else ["--prompts", place / "prompts.jsonl"]
    return CliRunner().invoke(app, [str(word) for word in (*words, *prompts, *extra)])


def test_calibration_table_and_file(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "results.json"
    done = call(
        place, "--decoders", "token-recycling,prompt-lookup", "--assistant", "1", "--limit", "1", "-o", out
    )
    assert done.exit_code == 0, done.output
    for text in (
        "A pass over one row takes",
        "cats",
        "prompts",
        "token-recycling",
        "expected",
        "process time",
        str(out),
    ):
        assert text in done.output
    found = json.loads(out.read_text())
    assert [one["decoder"] for one in found["decoders"]] == ["greedy", "token-recycling", "prompt-lookup"]
    assert {(run["kind"], run["prompt"]) for run in found["runs"]} == {("cats", "1"), ("prompts", "2")}
    assert found["calibration"]["latency"]["1"] == 1
    assert {path.name for path in out.parent.glob("[!.]*")} == {"results.json", "results.jsonl"}


def test_without_calibration_and_with_an_assistant(place: Path) -> None:
    done = call(place, "--no-calibrate", "--decoders", "assisted", "--assistant", place / "model")
    assert done.exit_code == 0, done.output
    assert "A pass over" not in done.output
    assert "assisted" in done.output
    left_out = call(place, "--no-calibrate", "--decoders", "assisted")
    assert "assisted: left out: no smaller model" in left_out.output
    said = left_out.output.index("Nothing was compared: none of the 1 decoders ran on this model.")
    assert said < left_out.output.index("tokens/s")  # the table
    assert left_out.exit_code == FAILED


def test_ctrl_c_shows_what_all_are_through_with_and_the_same_command_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--no-calibrate", "--decoders", "prompt-lookup,token-recycling", "-o", "found.json")
    call_ = decoding.DecodingTask._call
    made: list[str] = []

    def interrupt(*given: Any) -> Any:
        if len(made) == 3 + 3 + 2:  # a warm-up of three ways, a prompt, and two ways of the next
            raise KeyboardInterrupt
        made.append(given[3])
        return call_(*given)

    with monkeypatch.context() as patch:
        patch.setattr(decoding.DecodingTask, "_call", interrupt)
        stopped = call(place, *words)
    assert stopped.exit_code == 130
    assert "Not finished: all decoders are through with 1 of 3 prompts" in stopped.output
    assert "Interrupted. What was measured is in found.jsonl; the same command continues" in stopped.output
    assert not Path("found.json").exists()
    kept = Path("found.jsonl").read_text()
    done = call(place, *words)
    assert done.exit_code == 0, done.output
    assert "Not finished" not in done.output
    assert Path("found.jsonl").read_text().startswith(kept)
    found = json.loads(Path("found.json").read_text())
    assert (found["done"], found["planned"], len(found["sessions"])) == (3, 3, 2)
    monkeypatch.setattr(decoding.DecodingTask, "_call", None)
    assert call(place, *words).exit_code == 0  # everything is known


def test_what_is_wrong_is_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "file").touch()
    for words, message in (
        (("--prompts", tmp_path / "none.txt"), "cannot be read"),
        (("--prompts", tmp_path / "empty.txt"), "is empty"),
        (("--assistant", tmp_path / "none"), "There is no folder"),
        (("--out", tmp_path / "file" / "x.json"), "Cannot write"),
        (("--out", tmp_path / "x.jsonl"), "x.json;"),
        (("--max-new-tokens", "1000000"), "is more than the model's"),
        (("--decoders", "assisted", "--assistant", "9"), "exits after 1 to 1 of them, not 9"),
    ):
        failed = call(place, "--no-calibrate", *words)
        assert failed.exit_code == USER_ERROR, (words, failed.output)
        assert message in failed.output
    assert call(place, model="nowhere").exit_code == USER_ERROR


@pytest.mark.parametrize(
    "words",
    [
        ("--limit", "0"),
        ("--rounds", "0"),
        ("--threads", "0"),
        ("--max-new-tokens", "0"),
        ("--decoders", "token-recyclin"),
    ],
)
def test_what_no_model_can_do_is_refused_before_one_is_loaded(place: Path, words: tuple[str, str]) -> None:
    failed = call(place, *words, model="nowhere")
    assert failed.exit_code == USER_ERROR
    assert (words[1] if words[0] == "--decoders" else words[0]) in failed.output
    assert "nowhere" not in failed.output
