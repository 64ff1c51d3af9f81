"""Putting rows into models: heads, biases, ids, chat, files; and what is refused."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.text.transplant import tiny
from tokenry.text.transplant import Context, save_transplanted, transplant, transplant_method, transplants
from tokenry.text.transplant.simple import ReTok
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, TokenryError, UnknownNameError

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)


def chat_tokenizer() -> object:
    tokenizer = deepcopy(tiny.byte_level())
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "extra_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_a_chat_model_stays_one(tmp_path: Path) -> None:
    source, target = chat_tokenizer(), tiny.byte_level(290)
    model = tiny.llama(source)
    moved = transplant(model, source, target, "retok")
    assert set(moved.report["control tokens added to the target"]) == {"<|im_start|>", "<|im_end|>"}
    folder = save_transplanted(moved.model, moved.tokenizer, tmp_path / "model", moved.report)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "the cat"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == source.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    names = tokenizer.get_vocab()
    assert tokenizer(text)["input_ids"][0] == names["<|im_start|>"]
    assert set(loaded.generation_config.eos_token_id) == {names["<|end|>"], names["<|im_end|>"]}
    new, old = loaded.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert torch.equal(new[names["<|im_start|>"]], old[source.get_vocab()["<|im_start|>"]])
    plain = transplant(model, source, target, "retok", chat=False)
    assert plain.tokenizer.chat_template is None
    assert len(plain.tokenizer) == len(target)


def test_a_masked_model_keeps_its_mask_its_bias_and_its_framing(tmp_path: Path) -> None:
    source, target = tiny.wordpiece(), tiny.byte_level()
    model = tiny.bert(source)
    moved = transplant(model, source, target, "retok")
    head, old = moved.model.get_output_embeddings(), model.get_output_embeddings()
    assert head.weight is moved.model.get_input_embeddings().weight
    plan_source, plan_target = ByteVocab.from_tokenizer(source), ByteVocab.from_tokenizer(moved.tokenizer)
    shared = set(plan_source.ids) & set(plan_target.ids)
    assert shared
    for data in shared:
        assert head.bias[plan_target.ids[data]] == old.bias[plan_source.ids[data]]
    assert head.bias[moved.tokenizer.mask_token_id] == old.bias[source.mask_token_id]
    folder = save_transplanted(moved.model, moved.tokenizer, tmp_path / "model")
    tokenizer, loaded = AutoTokenizer.from_pretrained(folder), AutoModelForMaskedLM.from_pretrained(folder)
    names = tokenizer.convert_ids_to_tokens(tokenizer("the cat")["input_ids"])
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    ids = torch.tensor([tokenizer("the cat")["input_ids"]])
    assert torch.equal(loaded(ids).logits, moved.model(ids).logits)


def test_a_language_model_is_not_framed_as_its_new_vocabulary_was_for_bert(tmp_path: Path) -> None:
    source = tiny.byte_level()
    moved = transplant(tiny.llama(source), source, tiny.wordpiece(), "retok")
    folder = save_transplanted(moved.model, moved.tokenizer, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not set(tokenizer("the cat")["input_ids"]) & {2, 3}


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_can_be_padded_after_as_before(own: bool, tmp_path: Path) -> None:
    """With the end of a text where the source does so; else with the source's own padding token and its row."""
    source, target = deepcopy(tiny.sentencepiece()), tiny.byte_level()
    source.add_special_tokens({"pad_token": "<pad>" if own else source.eos_token})
    model = tiny.llama(source)
    assert target.pad_token is None
    moved = transplant(model, source, target, "retok")
    folder = save_transplanted(moved.model, moved.tokenizer, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token == ("<pad>" if own else target.eos_token)
    batch = tokenizer(["a", "the other cat"], padding=True, return_tensors="pt")
    assert batch["attention_mask"].sum() < batch["input_ids"].numel()
    assert (
        moved.model.config.pad_token_id
        == moved.model.generation_config.pad_token_id
        == tokenizer.pad_token_id
    )
    if own:
        new, old = moved.model.get_input_embeddings().weight, model.get_input_embeddings().weight
        assert torch.equal(new[tokenizer.pad_token_id], old[source.pad_token_id])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_special_tokens_without_a_row_do_not_make_a_tokenizer_another_models(named: bool, tied: bool) -> None:
    """As Gemma-3-1b's: its tokenizer also serves models that see, and the placeholder's id lies behind its rows."""
    rows, source, target = len(tiny.byte_level()), deepcopy(tiny.byte_level()), deepcopy(tiny.byte_level(290))
    model = tiny.llama(source, tied=tied)
    for tokenizer in (source, target) if named else (source,):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<picture>"]})
    assert len(source) == rows + 1
    plain = transplant(model, tiny.byte_level(), target, "retok")
    moved = transplant(model, source, target, "retok")
    new, expected = (m.model.get_output_embeddings().weight for m in (moved, plain))
    assert torch.equal(new, expected)  # the mean row where the target has the placeholder, too
    same = transplant(model, source, source, "retok")
    assert same.report["note"].startswith("the same vocabulary")
    source.add_tokens(["ordinary"])
    with pytest.raises(InputError, match=f"ordinary tokens up to id {rows + 1}: that is not"):
        transplant(model, source, target, "retok")


def test_a_placeholder_without_a_row_keeps_its_place_in_the_configuration() -> None:
    source = deepcopy(tiny.byte_level())
    source.add_special_tokens({"extra_special_tokens": ["<picture>"]})
    model = tiny.llama(tiny.byte_level())
    model.config.image_token_id = source.convert_tokens_to_ids("<picture>")
    moved = transplant(model, source, tiny.byte_level(290), "retok")
    assert moved.tokenizer.convert_ids_to_tokens(moved.model.config.image_token_id) == "<picture>"


@pytest.mark.parametrize("tied", [True, False])
def test_filler_rows_are_never_generated(tied: bool, tmp_path: Path) -> None:
    source, target = tiny.byte_level(), tiny.sentencepiece()
    moved = transplant(tiny.llama(source, tied=tied), source, target, "retok", multiple=128)
    n = len(moved.tokenizer)
    assert moved.model.config.vocab_size == moved.model.lm_head.weight.shape[0] == 384 > n
    save_transplanted(moved.model, moved.tokenizer, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.generation_config.suppress_tokens == list(range(n, 384))
    with torch.no_grad():  # make the fillers likely
        loaded.lm_head.weight[n:] = 100 * loaded.model.norm.weight
    out = loaded.generate(torch.tensor([[5, 6]]), do_sample=True, max_new_tokens=8, min_new_tokens=8)
    assert int(out.max()) < n
    exact = transplant(tiny.llama(source, tied=tied), source, target, "retok")
    assert exact.model.config.vocab_size == n


def test_the_model_is_copied_unless_it_may_be_changed() -> None:
    source = tiny.byte_level()
    model = tiny.llama(source)
    before = model.get_input_embeddings().weight.clone()
    transplant(model, source, tiny.wordpiece(), "random")
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert transplant(model, source, tiny.wordpiece(), "random", inplace=True).model is model


def test_bad_input_is_refused(tmp_path: Path) -> None:
    source, target = tiny.byte_level(), tiny.wordpiece()
    model = tiny.llama(source)
    with pytest.raises(UnknownNameError, match="tokenadapt"):
        transplant(model, source, target, "tokenadap")
    with pytest.raises(TokenryError, match="retok has no setting top_k; its settings: none"):
        transplant(model, source, target, "retok", top_k=2)
    with pytest.raises(TokenryError, match=r"tokenadapt .* top_k='many' \(takes int\)"):
        transplant(model, source, target, "tokenadapt", top_k="many")
    with pytest.raises(TokenryError, match="already configured"):
        transplant(model, source, target, ReTok(), top_k=2)
    with pytest.raises(InputError, match="not this model's tokenizer"):
        transplant(tiny.llama(target), source, target, "retok")
    with pytest.raises(InputError, match="Multiple"):
        transplant(model, source, target, "retok", multiple=0)
    with pytest.raises(InputError, match="holds no tokenizer"):
        transplant(model, tmp_path, target, "retok")
    assert transplant_method("mean") == ReTok()
    assert {"tokenadapt", "omp", "focus", "wechsel", "transtokenizer", "retok"} <= transplants().keys()


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.byte_level()
    moved = transplant(tiny.llama(source), source, tiny.wordpiece(), "random", context=Context(seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        save_transplanted(moved.model, moved.tokenizer, tmp_path / "full")

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(moved.tokenizer), "save_pretrained", disk_full)
    with pytest.raises(TokenryError, match="No space left"):
        save_transplanted(moved.model, moved.tokenizer, tmp_path / "model")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
