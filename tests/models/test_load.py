"""Models are loaded as what they were saved as, also where the configuration has no part called vision_config."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    T5Config,
)

import tokenry as tk
from tests.bench.conftest import make_model, model_folder
from tokenry import bench
from tokenry.hosts.wrappers import device_of, fingerprint
from tokenry.models.load import auto_class, load, require_device
from tokenry.text.vocabulary import load_tokenizer
from tokenry.tokens import InputError, UnsupportedError

__all__ = ["model_folder"]

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
QUANTIZER = {
    "embed_dim": 16,
    "num_embeddings": 16,
    "base_channels": 32,
    "num_res_blocks": 1,
    "latent_channels": 16,
    "z_channels": 16,
}
WORDS = {f"word-{i}": i for i in range(40)}


def emu3() -> Any:
    text = {**SMALL, "pad_token_id": 0}
    quantizer = {**QUANTIZER, "codebook_size": 16, "channel_multiplier": [1], "attn_resolutions": []}
    return transformers.Emu3Config(text_config=text, vq_config=quantizer, vocabulary_map={"<image>": 299})


def fuyu() -> Any:
    text = {**SMALL, "model_type": "persimmon"}
    return transformers.FuyuConfig(**SMALL, text_config=text, patch_size=4)


def chameleon() -> Any:
    quantizer = {**QUANTIZER, "channel_multiplier": [1], "resolution": 8}
    return transformers.ChameleonConfig(
        **SMALL, vq_config=quantizer, vocabulary_map={"<image>": 299, **WORDS}
    )


@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (emu3, "Emu3ForConditionalGeneration"),
        (fuyu, "FuyuForCausalLM"),
        (chameleon, "ChameleonForConditionalGeneration"),
    ],
)
def test_models_without_a_vision_config_are_loaded_as_they_were_saved(
    config: Any, model_class: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    saved = getattr(transformers, model_class)(config())
    saved.save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path)
    model, report = auto_class(found).from_pretrained(tmp_path, output_loading_info=True)
    assert type(model) is type(saved)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, weight in saved.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name


def test_every_model_of_pictures_and_text_is_loaded_as_one() -> None:
    kinds = list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    assert len(kinds) > 80
    found = {kind: auto_class(kind.__new__(kind)) for kind in kinds[::8]}  # each imports its module
    assert set(found.values()) == {AutoModelForImageTextToText}


def test_what_was_saved_without_its_eyes_is_loaded_without() -> None:
    config = emu3()
    config.architectures = ["Emu3ForCausalLM"]
    assert auto_class(config) is AutoModelForCausalLM
    config.architectures = 5  # whatever a damaged file says
    assert auto_class(config) is AutoModelForImageTextToText
    assert auto_class(LlamaConfig()) is AutoModelForCausalLM
    with pytest.raises(InputError, match="T5Config writes no text"):
        auto_class(T5Config())


def test_a_folder_is_loaded_whole_or_refused(tmp_path: Path) -> None:
    saved, processor = make_model()
    saved.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, own = load(tmp_path)
    assert (type(model), type(own)) == (type(saved), type(processor))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="Cannot load a model from folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("BertModel", "BertModel"),
        ("BertForMaskedLM", "BertForMaskedLM"),
        ("BertLMHeadModel", "BertLMHeadModel"),
        ("BertForPreTraining", "BertModel"),  # two objectives: what is below them
        ("T5ForConditionalGeneration", "T5ForConditionalGeneration"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
    ],
)
def test_models_of_text_are_loaded_as_what_they_were_saved_as(
    saved: str, loaded: str, model_folder: Path, tmp_path: Path
) -> None:
    kind = getattr(transformers, saved)
    small = {"num_layers": 1, "d_kv": 8} if saved.startswith("T5") else SMALL
    model = kind(kind.config_class(**{**small, "vocab_size": 300}))
    model.save_pretrained(tmp_path)
    _, tokenizer = tk.load(model_folder, reads="text")
    tokenizer.save_pretrained(tmp_path)
    found, own = tk.load(tmp_path)
    assert (type(found).__name__, type(own)) == (loaded, type(tokenizer))
    for name, weight in found.named_parameters():
        prefix = "" if loaded == saved else f"{model.base_model_prefix}."
        assert torch.equal(model.get_parameter(prefix + name), weight), name


def test_a_model_of_pictures_comes_with_its_processor_or_for_text_with_its_tokenizer(
    model_folder: Path,
) -> None:
    model, processor = tk.load(model_folder, dtype="bfloat16")
    same, tokenizer = tk.load(model_folder, reads="text")
    assert type(model) is type(same)
    assert (model.dtype, same.dtype) == (torch.bfloat16, torch.float32)
    assert type(processor.tokenizer) is type(tokenizer)


def test_packaged_models_are_known_by_name_wherever_a_model_is_named() -> None:
    model, processor = tk.load("embedded")
    assert model.dtype == torch.float32
    assert load_tokenizer("embedded").get_vocab() == processor.tokenizer.get_vocab()
    with pytest.warns(DeprecationWarning, match=r'is now tokenry\.load\("embedded"\)'):
        old, _ = tk.load_embedded()
    assert torch.equal(old.lm_head.weight, model.lm_head.weight)


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("gpu", "'gpu' is no name of a device: use cpu"),
        ("", "'' is no name of a device"),
        ("cpu:3", "There is no device 'cpu:3' here: use cpu"),
        ("cuda:977", "There is no device 'cuda:977' here"),
        ("xla", "There is no device 'xla' here"),
        ("hpu", "There is no device 'hpu' here"),
        ("meta", "The device 'meta' holds no numbers"),
    ],
)
def test_devices_that_this_machine_lacks_are_refused_in_a_sentence(
    device: str, words: str, model_folder: Path
) -> None:
    for ask in (
        lambda: require_device(device),
        lambda: load(model_folder, device=device),
        lambda: load(model_folder, device_map=device),
        lambda: load(model_folder, device_map={"lm_head": "cpu", "": device}),
    ):
        with pytest.raises(InputError, match=words) as refused:
            ask()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 160
    for there in ("cpu", "cpu:0"):
        require_device(there)


def parts(model: Any, **elsewhere: str) -> dict[str, str]:
    """A device map that names every part of a model, all on the CPU but for some, by name."""
    layers = [f"model.language_model.layers.{i}" for i in range(model.config.text_config.num_hidden_layers)]
    inner = [f"model.language_model.{name}" for name in ("embed_tokens", "norm", "rotary_emb")]
    rest = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    return dict.fromkeys([*rest, *inner, *layers], "cpu") | elsewhere


def question(model: Any, processor: Any) -> dict[str, Any]:
    example = bench.load_data("scenes", 1).examples[0]
    return bench.prepare(model, processor, example.pictures[0].open(), example.question)


def scores(model: Any, inputs: dict[str, Any], method: str) -> torch.Tensor:
    with tk.reduced(model, method, budget=0.25):
        found = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
    return torch.stack(found.scores)


@pytest.mark.parametrize("spread", [False, True])
def test_a_model_that_accelerate_spreads_runs_and_is_measured_as_one_in_memory(
    spread: bool, model_folder: Path
) -> None:
    plain, processor = load(model_folder)
    away = ("model.vision_tower", "model.language_model.embed_tokens", "model.language_model.layers.2")
    model, _ = load(
        model_folder, device_map=parts(plain, **dict.fromkeys(away, "disk")) if spread else "auto"
    )
    assert (next(model.parameters()).device.type == "meta") is spread
    assert device_of(model) == torch.device("cpu")
    inputs = question(model, processor)
    for method in ("divprune", "fastervlm", "fastv"):
        assert torch.equal(scores(model, inputs, method), scores(plain, inputs, method)), method
    assert bench.environment.facts(model) == bench.environment.facts(plain)
    assert not spread or tk.check(model, inputs).ok


def test_device_maps_that_cannot_be_obeyed_are_refused(model_folder: Path) -> None:
    for given, words in (
        ({"device": "cpu", "device_map": "auto"}, "give one of them"),
        ({"device_map": {}}, "puts nothing anywhere"),
        ({"device_map": {"lm_head": "disk", "": "cpu"}}, "name every part"),
    ):
        with pytest.raises(InputError, match=words):
            load(model_folder, **given)


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the language model of the small vision-language model, of random weights."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    wanted = peft.LoraConfig(target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False)
    torch.manual_seed(0)
    peft.get_peft_model(make_model()[0], wanted).save_pretrained(folder)
    return folder


def test_an_adapter_counts_in_answers_measurements_and_checks(
    adapter: Path, model_folder: Path, tmp_path: Path
) -> None:
    plain, processor = load(model_folder)
    model, _ = load(model_folder, adapter=adapter)
    merged = copy.deepcopy(model).merge_and_unload()
    inputs = question(model, processor)
    for method in ("divprune", "fastv"):
        found = scores(model, inputs, method)
        torch.testing.assert_close(found, scores(merged, inputs, method), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found, scores(plain, inputs, method), atol=1e-3)
    assert fingerprint(model) != fingerprint(plain)
    data = bench.load_data("scenes", 2).examples
    for job in (
        lambda out: tk.compare(
            model, processor, data, ["fastv"], ["50%"], out=out, seeds=1, max_new_tokens=2
        ),
        lambda out: tk.tune(
            model, processor, data, methods=["fastv"], budgets=["50%"], out=out, max_new_tokens=2
        ),
    ):
        job(tmp_path)  # the second finds what the first has measured
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    measured = [line["prefill_ms"] for line in lines if "prefill_ms" in line]
    assert len(measured) >= 8
    assert min(measured) > 0


def test_adapters_that_do_not_fit_are_refused(
    adapter: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    other = LlamaConfig(**SMALL | {"num_hidden_layers": 6, "hidden_size": 48, "num_attention_heads": 4})
    for name, settings in (("deep", {"layers_to_transform": [5]}), ("everywhere", {})):
        wanted = peft.LoraConfig(target_modules=["q_proj"], **settings)
        peft.get_peft_model(transformers.LlamaForCausalLM(other), wanted).save_pretrained(tmp_path / name)
    larger = make_model()[0]
    larger.model.language_model.layers.append(copy.deepcopy(larger.model.language_model.layers[0]))
    wanted = peft.LoraConfig(target_modules=r".*language_model.*\.q_proj")
    peft.get_peft_model(larger, wanted).save_pretrained(tmp_path / "one layer more")
    for folder, words in (
        (tmp_path / "deep", "does not fit LlavaForConditionalGeneration"),
        (tmp_path / "everywhere", "it lacks .* weights"),
        (tmp_path / "one layer more", r"the model has no place for 2 weights \(\S+layers.4"),
        (model_folder, "has no adapter_config.json"),
        (tmp_path / "nowhere", "There is no folder"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            load(model_folder, adapter=folder)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="it holds an adapter and no model"):
        load(adapter)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        UnsupportedError, match=r"The adapter in .* needs peft, .* pip install 'tokenry\[adapt\]'"
    ):
        load(model_folder, adapter=adapter)


def test_an_adapter_in_a_pickle_is_not_read(adapter: Path, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"has no adapter_model\.safetensors, and no pickle"):
        load(model_folder, adapter=tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is cut off or damaged"):
        load(model_folder, adapter=tmp_path)
