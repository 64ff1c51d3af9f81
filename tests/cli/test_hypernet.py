"""`tokenry vocab hypernet` on a small model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tokenry.cli import hypernet
from tokenry.text.training import save_tokenizer, train_bpe
from tokenry.text.zett.transfer import load_hypernetwork
from tokenry.tokens.errors import InputError
from tokenry.train.language import small_llama

TEXT = "The lowest lower price is lower than the prices of the tests, and tokens are what models read. " * 9
FAST = ["--steps", "2", "--identity-steps", "2", "--batch", "2", "--length", "16", "--layers", "1"]
FAST += ["--size", "520", "--precision", "no"]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    hypernet.register(app)
    return app


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model's folder, and a text."""
    tokenizer = train_bpe([TEXT], 280)
    model = small_llama(len(tokenizer), layers=1, width=64, heads=2, context=64, eos_token_id=0)
    model.save_pretrained(tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "model", tmp_path / "text.txt"


def test_it_trains_and_saves(app: typer.Typer, folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, text = folders
    out = tmp_path / "net"
    result = CliRunner().invoke(app, [str(model), "--on", str(text), "-o", str(out), *FAST])
    assert result.exit_code == 0, result.output
    assert "Saved to" in result.output
    assert load_hypernetwork(out).config.embedding_size == 64
    assert (out / "checkpoints" / "transfer" / "step-0000002").is_dir()


def test_a_folder_without_a_model_is_refused(
    app: typer.Typer, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    _, text = folders
    result = CliRunner().invoke(app, [str(tmp_path), "--on", str(text), "-o", str(tmp_path / "net"), *FAST])
    assert isinstance(result.exception, InputError)
    assert "has no config.json" in str(result.exception)
