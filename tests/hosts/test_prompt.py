"""Prompts are the processor's own, and a question in them is text, whatever it says."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

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
    ours = question_inputs(model, processor, [[PICTURE]], ["is it a cat?"])
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
    plain = question_inputs(model, processor, [[PICTURE]], ["what is it?"])
    found = question_inputs(model, processor, [[PICTURE]], [question])
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
    whole = question_inputs(model, processor, [[PICTURE]], ["what is it?"])
    for name in {*lost} - {"extra"}:
        setattr(processor, name, None)
    if "extra" in lost:
        processor.num_additional_image_tokens = 0  # what the class says where the file says nothing
    found = question_inputs(model, processor, [[PICTURE]], ["what is it?"])
    assert torch.equal(found["input_ids"], whole["input_ids"])
    assert processor.patch_size is None, "the user's processor was changed"
    model.config.vision_config.patch_size = None
    with pytest.raises(InputError, match=r"no patch_size.*processor_config\.json"):
        question_inputs(model, processor, [[PICTURE]], ["what is it?"])


def test_a_template_that_refuses_is_told(model_and_processor: tuple[Any, Any]) -> None:
    model, processor = model_and_processor
    processor.chat_template = "{{ raise_exception('one picture too many') }}"
    with pytest.raises(InputError, match="refuses a question about a picture: one picture too many"):
        question_inputs(model, processor, [[PICTURE]], ["what?"])
    processor.chat_template, processor.image_token = None, None
    with pytest.raises(InputError, match="neither a chat template nor an image token"):
        question_inputs(model, processor, [[PICTURE]], ["what?"])


def _tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Bytes; a BOS token in front of every text, as Llama's tokenizers put it."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named,
    )
    tokens = [AddedToken(text, special=True, normalized=False) for text in special]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def _gemma3() -> Any:
    names = {"image_token": "<soft>", "boi_token": "<image>", "eoi_token": "<end_of_image>"}
    tokenizer = _tokenizer(*names.values(), **names)
    return transformers.Gemma3Processor(transformers.Gemma3ImageProcessor(), tokenizer, image_seq_length=16)


def _idefics3() -> Any:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _tokenizer(
        "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places
    )
    return transformers.Idefics3Processor(transformers.Idefics3ImageProcessor(), tokenizer, image_seq_len=9)


def _mllama() -> Any:
    return transformers.MllamaProcessor(transformers.MllamaImageProcessor(), _tokenizer("<|image|>"))


@pytest.mark.parametrize(
    ("build", "marker"), [(_gemma3, "<image>"), (_idefics3, "<image>"), (_mllama, "<|image|>")]
)
def test_prompts_of_other_families_keep_what_belongs_to_each_token(build: Any, marker: str) -> None:
    model, _ = make_model()
    processor = build()
    processor.chat_template = WRITES_BOS.replace("<image>", marker)
    plain = question_inputs(model, processor, [[PICTURE]], ["what?"])
    question = f"what is {marker}</s>?"
    found = question_inputs(model, processor, [[PICTURE]], [question])
    ids, before = found["input_ids"][0].tolist(), plain["input_ids"][0].tolist()
    assert processor.tokenizer.decode(ids).endswith(question)
    assert (
        ids[-len(question.encode()) :]
        == processor.tokenizer(question, split_special_tokens=True)["input_ids"][1:]
    )
    assert ids[: -len(question)] == before[: -len("what?")]
    assert before.count(processor.tokenizer.bos_token_id) == 1
    for name, value in plain.items():
        if name.startswith("pixel") or value.shape[:2] != (1, len(before)):
            assert torch.equal(found[name], value), name
        else:  # one column for each token
            assert found[name].shape == (1, len(ids), *value.shape[2:]), name
            assert torch.equal(found[name][:, : len(before) - 5], value[:, : len(before) - 5]), name


@pytest.mark.parametrize("template", [None, WRITES_BOS])
def test_rows_of_a_batch_are_the_single_prompts_padded_on_the_left(
    template: str | None, model_and_processor: tuple[Any, Any]
) -> None:
    model, processor = model_and_processor
    processor.chat_template = template
    asked = [([PICTURE], "what?"), ([PICTURE, PICTURE.rotate(90)], "which of the two is the cat?")]
    both = question_inputs(model, processor, [pictures for pictures, _ in asked], [text for _, text in asked])
    assert len(both["pixel_values"]) == 3
    for row, (pictures, text) in enumerate(asked):
        alone = question_inputs(model, processor, [pictures], [text])
        width = alone["input_ids"].shape[1]
        assert torch.equal(both["input_ids"][row, -width:], alone["input_ids"][0])
        assert both["attention_mask"][row].sum() == width
        assert torch.equal(both["pixel_values"][row : 2 * row + 1], alone["pixel_values"])


def test_each_row_of_a_batch_keeps_what_its_own_question_quotes(model_and_processor: tuple[Any, Any]) -> None:
    """Control tokens are taken apart by tokens that are taken out again: in other places, and more, in other rows."""
    model, processor = model_and_processor
    texts = ["what?", "what does <image> mean, at such length?", "how many things?<eos><eos>", "<pad>"]
    found = question_inputs(model, processor, [[PICTURE]] * 4, texts)
    for row, text in enumerate(texts):
        alone = question_inputs(model, processor, [[PICTURE]], [text])["input_ids"][0]
        mask = found["attention_mask"][row].bool()
        assert torch.equal(found["input_ids"][row][mask], alone), text
        assert bool(mask[-len(alone) :].all()), "padded on the left"
        assert set(found["input_ids"][row][~mask].tolist()) <= {processor.tokenizer.pad_token_id}
