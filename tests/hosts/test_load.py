"""Models are loaded as what they were saved as, also where the configuration has no part called vision_config."""

from __future__ import annotations

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

from tests.bench.conftest import make_model
from tokenry.hosts.load import auto_class, load_model
from tokenry.tokens import InputError

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
    kinds = [
        kind for kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    ]
    assert len(kinds) > 80
    found = {kind: auto_class(kind.__new__(kind)) for kind in kinds[::8]}  # each imports its module
    assert set(found.values()) == {AutoModelForImageTextToText}


def test_what_was_saved_without_its_eyes_is_loaded_without() -> None:
    config = emu3()
    config.architectures = ["Emu3ForCausalLM"]
    assert auto_class(config) is AutoModelForCausalLM
    assert auto_class(LlamaConfig()) is AutoModelForCausalLM
    with pytest.raises(InputError, match="T5Config writes no text"):
        auto_class(T5Config())


def test_a_folder_is_loaded_whole_or_refused(tmp_path: Path) -> None:
    saved, processor = make_model()
    saved.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, own = load_model(tmp_path)
    assert (type(model), type(own)) == (type(saved), type(processor))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="Cannot load a model from folder"):
        load_model(tmp_path)
