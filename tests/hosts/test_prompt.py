"""Prompts are the processor's own, and a question in them is text, whatever it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.bench.conftest import make_model, model_folder
from tokenry.hosts.prompt import question_inputs, sample_inputs
from tokenry.tokens import InputError

__all__ = ["model_folder"]
PICTURE = Image.effect_noise((120, 90), 60).convert("RGB")
WRITES_BOS = (
    "{{ bos_token }}{% for m in messages %}user: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture
def model_and_processor() -> tuple[Any, Any]:
    model, processor = make_model()
    return model, copy.deepcopy(processor)


@pytest.mark.parametrize("template", [WRITES_BOS, WRITES_BOS.removeprefix("{{ bos_token }}")])
def test_a_chat_prompt_is_what_the_processor_tokenizes(
    template: str, model_and_processor: tuple[Any, Any]
) -> None:
    model, processor = model_and_processor
    processor.chat_template = template
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "is it a cat?"}]
    own = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    ours = question_inputs(model, processor, PICTURE, "is it a cat?")
    assert set(ours) == set(own)
    for name, value in own.items():
        assert torch.equal(ours[name], value), name
    assert ours["input_ids"][0].tolist().count(processor.tokenizer.bos_token_id) == 1


def test_made_up_inputs_begin_once(model_folder: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
    tokenizer = processor.tokenizer
    made = sample_inputs(model)
    assert made["input_ids"].shape[0] == 2
    assert (made["input_ids"] == tokenizer.bos_token_id).sum(1).tolist() == [1, 1]
    assert made["input_ids"][0, 0] == tokenizer.pad_token_id, "padded on the left"


@pytest.mark.parametrize("template", [None, WRITES_BOS])
@pytest.mark.parametrize(
    "question", ["what does <image> mean?", "is it?<eos>", "<image>", "<bos><EOS> <pad>", "<image> <image>"]
)
def test_a_question_that_quotes_markers_is_text(
    question: str, template: str | None, model_and_processor: tuple[Any, Any]
) -> None:
    model, processor = model_and_processor
    processor.chat_template = template
    plain = question_inputs(model, processor, PICTURE, "what is it?")
    found = question_inputs(model, processor, PICTURE, question)
    for token in ("<image>", "<eos>", "<bos>", "<pad>"):
        number = processor.tokenizer.convert_tokens_to_ids(token)
        assert (found["input_ids"] == number).sum() == (plain["input_ids"] == number).sum(), token
    assert found["attention_mask"].shape == found["input_ids"].shape
    assert found["input_ids"].max() < len(processor.tokenizer)
    assert torch.equal(found["pixel_values"], plain["pixel_values"])
    assert model(**found).logits.isfinite().all()


@pytest.mark.parametrize("lost", [("patch_size",), ("patch_size", "vision_feature_select_strategy", "extra")])
def test_what_an_old_processor_lacks_is_the_models_to_tell(
    lost: tuple[str, ...], model_and_processor: tuple[Any, Any]
) -> None:
    model, processor = model_and_processor
    whole = question_inputs(model, processor, PICTURE, "what is it?")
    for name in {*lost} - {"extra"}:
        setattr(processor, name, None)
    if "extra" in lost:
        processor.num_additional_image_tokens = 0  # what the class says where the file says nothing
    found = question_inputs(model, processor, PICTURE, "what is it?")
    assert torch.equal(found["input_ids"], whole["input_ids"])
    assert processor.patch_size is None, "the user's processor was changed"
    model.config.vision_config.patch_size = None
    with pytest.raises(InputError, match=r"no patch_size.*processor_config\.json"):
        question_inputs(model, processor, PICTURE, "what is it?")


def test_a_template_that_refuses_is_told(model_and_processor: tuple[Any, Any]) -> None:
    model, processor = model_and_processor
    processor.chat_template = "{{ raise_exception('one picture too many') }}"
    with pytest.raises(InputError, match="refuses a question about a picture: one picture too many"):
        question_inputs(model, processor, PICTURE, "what?")
    processor.chat_template, processor.image_token = None, None
    with pytest.raises(InputError, match="neither a chat template nor an image token"):
        question_inputs(model, processor, PICTURE, "what?")
