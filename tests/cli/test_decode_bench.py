"""`tokenry decode-bench`: calibration, a table, a file, and what it says about bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.text.transplant import tiny
from tokenry.cli import decode_bench
from tokenry.cli.options import FAILED, INTERRUPTED
from tokenry.tokens.errors import InputError, TokenryError

app = typer.Typer()
decode_bench.register(app)


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
    words = [place / model, "--dtype", "float32", "--new-tokens", "5", "--rounds", "1"]
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
    assert [path.name for path in out.parent.iterdir()] == ["results.json"]


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


def test_interruption(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tokenry.bench.decoding.compare_decoders", interrupted)
    done = call(place, "--no-calibrate")
    assert done.exit_code == INTERRUPTED
    assert "Interrupted" in done.output


def test_what_is_wrong_is_said(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "file").touch()
    for words, message in (
        (("--prompts", tmp_path / "none.txt"), "cannot be read"),
        (("--prompts", tmp_path / "empty.txt"), "is empty"),
        (("--limit", "0"), "limit of 0"),
        (("--rounds", "0"), "one round"),
        (("--threads", "0"), "one thread"),
        (("--assistant", tmp_path / "none"), "There is no folder"),
        (("--out", tmp_path / "file" / "x.json"), "Cannot write"),
        (("--new-tokens", "1000000"), "is more than the model's"),
    ):
        failed = call(place, "--no-calibrate", *words)
        assert isinstance(failed.exception, InputError), (words, failed.output)
        assert message in str(failed.exception)
    assert isinstance(call(place, model="nowhere").exception, InputError)
    unknown = call(place, "--no-calibrate", "--decoders", "token-recyclin")
    assert isinstance(unknown.exception, TokenryError)
    assert "token-recyclin" in str(unknown.exception)
