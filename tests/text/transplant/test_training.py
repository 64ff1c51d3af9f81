"""Training on after a transplant: rows first, then everything; and going on after a stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.text.transplant import tiny
from tokenry.text.transplant import transplant
from tokenry.text.transplant.training import ContinueSettings, continue_training
from tokenry.tokens.errors import InputError, UnsupportedError

SETTINGS = ContinueSettings(steps=4, batch=2, length=16, precision="no", checkpoint_every=1)


def moved(tied: bool = True) -> tuple[object, object]:
    source = tiny.sentencepiece()
    found = transplant(tiny.llama(source, tied=tied), source, tiny.byte_level(), "retok")
    return found.model, found.tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_the_first_phase_moves_only_embedding_and_head(tied: bool, tmp_path: Path) -> None:
    model, tokenizer = moved(tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = ContinueSettings(**{**vars(SETTINGS), "embedding_share": 1.0})
    continue_training(model, tokenizer, [tiny.TEXT], settings, tmp_path)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}


def test_the_second_phase_moves_everything_and_a_repeated_call_changes_nothing(tmp_path: Path) -> None:
    model, tokenizer = moved()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    continue_training(model, tokenizer, [tiny.TEXT], SETTINGS, tmp_path)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    again, tokenizer = moved()
    continue_training(again, tokenizer, [tiny.TEXT], SETTINGS, tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_run_is_not_taken_up_with_something_else(tmp_path: Path) -> None:
    model, tokenizer = moved()
    continue_training(model, tokenizer, [tiny.TEXT], SETTINGS, tmp_path, origin="retok")
    with pytest.raises(InputError, match="started with another origin, text: choose another output"):
        continue_training(model, tokenizer, [tiny.TEXT, "More."], SETTINGS, tmp_path, origin="random")
    other = tiny.sentencepiece()
    with pytest.raises(InputError, match="started with another vocabulary"):
        continue_training(tiny.llama(other), other, [tiny.TEXT], SETTINGS, tmp_path, origin="retok")


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny.wordpiece()
    with pytest.raises(UnsupportedError, match="causal"):
        continue_training(tiny.bert(tokenizer), tokenizer, [tiny.TEXT], SETTINGS, tmp_path)
    with pytest.raises(InputError, match="embedding_share"):
        ContinueSettings(steps=2, embedding_share=2.0)
