"""`tokenry vocab transplant`: a folder in, a folder out, and what it says about bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import typer
from tokenizers import normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.text.transplant import tiny
from tokenry.bench.vocabularies.transplant import changes_text
from tokenry.cli import transplant
from tokenry.cli.main import app as tokenry
from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.train.language import TokenBatches

app = typer.Typer()
transplant.register(app)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model, a tokenizer to move to, and text."""
    source = tiny.byte_level()
    tiny.llama(source).save_pretrained(tmp_path / "model")
    source.save_pretrained(tmp_path / "model")
    tiny.sentencepiece().save_pretrained(tmp_path / "target")
    (tmp_path / "text.txt").write_text(tiny.TEXT)
    return tmp_path


def call(place: Path, *extra: str, model: str = "model", out: str = "out") -> object:
    arguments = [str(place / model), "--to", str(place / "target"), "-o", str(place / out), *extra]
    return CliRunner().invoke(app, arguments)


def test_move_measure_train_and_save(place: Path) -> None:
    text = str(place / "text.txt")
    done = call(place, "--method", "retok", "--text", text, "--continue-on", text, "--steps", "2")
    assert done.exit_code == 0, done.output
    report = json.loads((place / "out" / "transplant.json").read_text())
    assert report["bits per byte"].keys() == {"before", "after", "after training"}
    assert "bits per byte" in done.output
    model, tokenizer = (c.from_pretrained(place / "out") for c in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer)


def test_ctrl_c_loses_no_step_and_the_same_command_ends_in_the_same_bytes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = str(place / "text.txt")
    words = ("--method", "retok", "--continue-on", text, "--steps", "5")
    assert call(place, *words, out="whole").exit_code == 0
    make, made = TokenBatches.__call__, []

    def interrupted(batches: TokenBatches, step: int) -> object:
        made.append(step)
        if len(made) == 4:
            signal.raise_signal(signal.SIGINT)
        return make(batches, step)

    monkeypatch.setattr(TokenBatches, "__call__", interrupted)
    paths = [str(place / name) for name in ("model", "target", "out")]
    command = ["vocab", "transplant", paths[0], "--to", paths[1], "-o", paths[2], *words]
    stopped = CliRunner().invoke(tokenry, command)
    assert stopped.exit_code == 130
    assert f"Interrupted. The same command goes on from the last checkpoint in {paths[2]}-training" in (
        stopped.output
    )
    assert not (place / "out").exists()
    assert CliRunner().invoke(tokenry, command).exit_code == 0
    assert len(made) == 5  # no step was made twice
    whole, resumed = (place / name / "model.safetensors" for name in ("whole", "out"))
    assert whole.read_bytes() == resumed.read_bytes()


def test_bits_of_a_tokenizer_that_changes_the_text_are_marked(place: Path) -> None:
    assert not changes_text(tiny.sentencepiece(), [tiny.TEXT])
    target = tiny.wordpiece()
    target.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert changes_text(target, ["A text"])
    assert not changes_text(target, ["a text"])
    target.save_pretrained(place / "target")
    (place / "text.txt").write_text(tiny.TEXT.upper()[:40])
    done = call(place, "--method", "retok", "--text", str(place / "text.txt"))
    assert done.exit_code == 0, done.output
    assert "do not compare" in done.output


def test_what_is_wrong_is_said_before_any_work(place: Path) -> None:
    (place / "empty").mkdir()
    (place / "taken").mkdir()
    (place / "taken" / "file").touch()
    for arguments, error, words in (
        ({"model": "empty"}, InputError, "Cannot load a model from folder"),
        ({"model": "nowhere"}, InputError, "There is no folder"),
        ({"out": "taken"}, InputError, "exists already"),
    ):
        failed = call(place, "--method", "retok", **arguments)
        assert isinstance(failed.exception, error)
        assert words in str(failed.exception)
    assert isinstance(call(place, "--method", "retoc").exception, UnknownNameError)
    assert "NAME=VALUE" in str(call(place, "--set", "top_k").exception)
    assert "needs a donor" in str(call(place, "--method", "omp").exception)
    assert not (place / "out").exists()
