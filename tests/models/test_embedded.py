"""The shipped model: an ordinary checkpoint that plain transformers load, and that answers."""

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from tokenry.data.questions.examples import Example, exact_match, load_scenes
from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import DIRECTIONS, PLACES, sign_words
from tokenry.models import pretrained
from tokenry.models.load import load
from tokenry.models.pretrained import embedded_folder
from tokenry.models.vlm.embedded.model import PROMPT, build_tokenizer
from tokenry.tokens.errors import TokenryError


@pytest.fixture(scope="module")
def shipped() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return load("embedded")


def answers(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, examples: list[Example]
) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(examples), 50):
        part = examples[start : start + 50]
        inputs = processor(
            images=[example.image for example in part],
            text=[PROMPT.format(question=example.question) for example in part],
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        texts += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def test_places_and_directions_are_single_tokens_and_names_are_known_words() -> None:
    tokenizer = build_tokenizer()

    def pieces(text: str) -> list[str]:
        return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])

    for text in (*PLACES, *DIRECTIONS):
        assert len(pieces(text)) == 1, text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    for item in load_pack().objects:
        assert pieces(item.name) == item.name.split()
    assert pieces("What is to the LEFT of\nthe dog?") == ["what", "is", "to-the-left-of", "the", "dog", "?"]
    assert pieces("łódź") == ["<unk>"]


def test_sign_words_are_spelt_letter_by_letter() -> None:
    tokenizer = build_tokenizer()
    for split in ("train", "val", "test"):
        for word in sign_words(split)[::97]:
            ids = tokenizer(word, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(word)
            assert tokenizer.decode(ids) == word


def test_the_shipped_folder_is_small_and_loads_with_plain_transformers(
    shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    folder = embedded_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 24_000_000
    plain = LlavaForConditionalGeneration.from_pretrained(folder)
    assert plain.dtype == torch.float16
    assert isinstance(AutoProcessor.from_pretrained(folder), LlavaProcessor)
    model, _ = shipped
    assert model.dtype == torch.float32
    assert not model.training
    for (name, ours), theirs in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs.float()), name


def test_a_picture_becomes_144_visual_tokens_and_a_cls(
    shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    model, processor = shipped
    inputs = processor(
        images=load_scenes("test", 1)[0].image, text="<image>\nis there a dog?", return_tensors="pt"
    )
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 144
    seen = model.model.vision_tower(inputs["pixel_values"])
    assert seen.last_hidden_state.shape[1] == 145
    assert model.config.vision_feature_layer == -2
    assert model.config.vision_feature_select_strategy == "default"


def test_it_answers_held_out_questions(shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    examples = load_scenes("test", 100)
    given = answers(*shipped, examples)
    right = sum(exact_match(text, str(example.answer)) for text, example in zip(given, examples, strict=True))
    assert right >= 80


def test_it_stops_at_the_end_token(shipped: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    model, processor = shipped
    example = next(e for e in load_scenes("test", 40) if e.kind == "exists")
    inputs = processor(
        images=example.image, text=PROMPT.format(question=example.question), return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=50, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert len(ids) == 2
    assert int(ids[-1]) == processor.tokenizer.eos_token_id


def test_missing_weights_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.setattr(pretrained, "files", lambda package: empty)
    with pytest.raises(TokenryError, match="weights are missing"):
        load("embedded")
