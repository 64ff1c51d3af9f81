"""ZeTT as a transplanting method, and keeping a hypernetwork on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.text.training import train_bpe
from tokenry.text.transplant import transplant
from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett import HypernetConfig, Hypernetwork, Surfaces, source_rows
from tokenry.text.zett.transfer import Zett, add_body_change, load_hypernetwork, save_hypernetwork
from tokenry.tokens.errors import InputError
from tokenry.train.language import small_llama

SOURCE = "the lowest lower price is lower than the prices of the tests " * 9
TARGET = "tokens are what models read and the tokenizer decides what tokens are " * 9


@pytest.fixture(scope="module")
def source() -> PreTrainedTokenizerFast:
    return train_bpe([SOURCE], 280)


@pytest.fixture(scope="module")
def target() -> PreTrainedTokenizerFast:
    return train_bpe([TARGET], 285)


def llama(size: int, *, tied: bool = True) -> LlamaForCausalLM:
    return small_llama(size, layers=1, width=32, heads=2, context=64, tied=tied, eos_token_id=0).eval()


def network(model: LlamaForCausalLM | BertForMaskedLM) -> Hypernetwork:
    torch.manual_seed(0)
    hypernet = Hypernetwork(HypernetConfig.for_model(model, layers=1, heads=2)).eval()
    hypernet.fit_scalers(source_rows(model))
    return hypernet


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("keep_shared", [True, False])
def test_rows_are_the_hypernetworks(
    tied: bool, keep_shared: bool, source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast
) -> None:
    model = llama(len(source) + 4, tied=tied)
    hypernet = network(model)
    moved, report, _ = transplant(model, source, target, Zett(hypernet=hypernet, keep_shared=keep_shared))
    assert report["shared rows kept"] is keep_shared
    ours, theirs = ByteVocab.from_tokenizer(source), ByteVocab.from_tokenizer(target)
    old, new = source_rows(model), source_rows(moved)
    assert torch.equal(new[0], old[0])  # the end-of-text token
    tokens = [(i, token) for i, token in enumerate(theirs.token_bytes) if token is not None]
    surface = Surfaces(ours, len(old)).matrix([token for _, token in tokens])
    made = hypernet.predict(surface, old)
    parts = [made.input_embeddings] if tied else [made.input_embeddings, made.output_embeddings]
    for (i, token), predicted in zip(tokens, torch.cat(parts, 1), strict=True):
        if keep_shared and token in ours.ids:
            assert torch.equal(new[i], old[ours.ids[token]])
        else:
            torch.testing.assert_close(new[i], predicted, atol=1e-5, rtol=1e-5)


def test_the_same_tokenizer_changes_nothing(source: PreTrainedTokenizerFast) -> None:
    model = llama(len(source))
    moved, _, _ = transplant(model, source, source, Zett(hypernet=network(model)))
    ids = torch.tensor([source(SOURCE[:90])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(moved(input_ids=ids).logits, model(input_ids=ids).logits)


def test_masked_language_models_get_a_predicted_bias(
    source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(source),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
        )
    ).eval()
    torch.nn.init.normal_(model.get_output_embeddings().bias)
    hypernet = network(model)
    moved, _, _ = transplant(model, source, target, Zett(hypernet=hypernet))
    token = next(t for t in ByteVocab.from_tokenizer(target).token_bytes if t and len(t) > 3)
    surface = Surfaces(ByteVocab.from_tokenizer(source), len(source)).matrix([token])
    expected = hypernet.predict(surface, source_rows(model)).bias[0]
    at = ByteVocab.from_tokenizer(target).ids[token]
    torch.testing.assert_close(moved.get_output_embeddings().bias[at], expected, atol=1e-5, rtol=1e-5)


def test_from_a_folder(
    tmp_path: Path, source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast
) -> None:
    model = llama(len(source))
    hypernet = network(model)
    save_hypernetwork(hypernet, tmp_path / "net")
    assert sorted(path.name for path in (tmp_path / "net").iterdir()) == ["config.json", "model.safetensors"]
    moved, _, _ = transplant(model, source, target, Zett(hypernet=tmp_path / "net"))
    expected, _, _ = transplant(model, source, target, Zett(hypernet=hypernet))
    torch.testing.assert_close(source_rows(moved), source_rows(expected), atol=1e-6, rtol=1e-6)


def test_a_failed_save_leaves_the_old_network(
    tmp_path: Path, source: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypernet = network(llama(len(source)))
    save_hypernetwork(hypernet, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Hypernetwork, "save_pretrained", full)
    with pytest.raises(InputError, match="No space left"):
        save_hypernetwork(hypernet, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_bad_hypernetworks_are_refused(
    tmp_path: Path, source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast
) -> None:
    model = llama(len(source))
    with pytest.raises(InputError, match="tokenry vocab hypernet"):
        transplant(model, source, target, Zett())
    with pytest.raises(InputError, match="holds no hypernetwork"):
        load_hypernetwork(tmp_path)
    other = network(llama(len(source) + 1))
    with pytest.raises(InputError, match="belongs to a model"):
        transplant(model, source, target, Zett(hypernet=other))


def test_a_hypernetwork_that_was_trained_anew_in_its_folder_is_read_anew(
    tmp_path: Path, source: PreTrainedTokenizerFast
) -> None:
    hypernet = network(llama(len(source)))
    save_hypernetwork(hypernet, tmp_path)
    first = load_hypernetwork(tmp_path)
    assert load_hypernetwork(str(tmp_path)) is first
    with torch.no_grad():
        for parameter in hypernet.parameters():
            parameter += 1
    save_hypernetwork(hypernet, tmp_path)
    second = load_hypernetwork(tmp_path)
    for name, value in hypernet.named_parameters():
        assert torch.equal(second.get_parameter(name), value)
        assert not torch.equal(first.get_parameter(name), value)


def test_a_fine_tuned_sibling_gets_the_change_of_the_body() -> None:
    base, moved, tuned = llama(280), llama(280), llama(280)
    moved.resize_token_embeddings(285, mean_resizing=False)
    layer = "model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        moved.get_parameter(layer).add_(1.0)
        tuned.get_parameter(layer).mul_(2.0)
    rows, expected = source_rows(tuned).clone(), tuned.get_parameter(layer).clone() + 0.5
    add_body_change(tuned, base, moved, weight=0.5)
    torch.testing.assert_close(tuned.get_parameter(layer), expected)
    assert torch.equal(source_rows(tuned), rows)
    assert torch.equal(tuned.model.norm.weight, base.model.norm.weight)
    deeper = small_llama(280, layers=2, width=32, heads=2, context=64)
    with pytest.raises(InputError, match="one architecture"):
        add_body_change(tuned, deeper, moved)
