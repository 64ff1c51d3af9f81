"""Sentence encoders: masked mean, batches, folders, and what an encoder of the user's may not return."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel

from tests.train.encoders import TEXTS, bert, tokenizer
from tokenry.data.packages import PackageUnavailableError
from tokenry.embed.encoder import SentenceEncoder, unit_vectors
from tokenry.models.pretrained import minilm_folder
from tokenry.tokens.errors import InputError, UnsupportedError


def tiny() -> BertModel:
    torch.manual_seed(0)
    return bert().bert.eval()


def folder(path: Path, modules: dict[str, dict[str, object]] | None = None) -> Path:
    """A transformers folder; with modules, the way sentence-transformers lays one out."""
    tiny().save_pretrained(path)
    tokenizer().save_pretrained(path)
    if modules is not None:
        listed = [
            {"type": f"sentence_transformers.models.{n}", "path": n * (n != "Transformer")} for n in modules
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        for name, config in modules.items():
            if name == "Transformer":
                (path / "sentence_bert_config.json").write_text(json.dumps(config))
            else:
                (path / name).mkdir()
                (path / name / "config.json").write_text(json.dumps(config))
    return path


def test_a_vector_is_the_mean_over_the_text_at_length_one() -> None:
    model, texts = tiny(), [TEXTS[0], "fox", TEXTS[3]]
    found = SentenceEncoder(model, tokenizer(), batch=2)(texts)
    for row, text in zip(found, texts, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer()(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (hidden / hidden.norm()).numpy(), atol=1e-6)


def test_cls_takes_the_first_token() -> None:
    model = tiny()
    found = SentenceEncoder(model, tokenizer(), pooling="cls")([TEXTS[0], "fox"])
    with torch.inference_mode():
        hidden = model(**tokenizer()("fox", return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(found[1], (hidden / hidden.norm()).numpy(), atol=1e-6)


def test_texts_come_back_in_order_whatever_the_batch() -> None:
    texts = [*TEXTS, "fox", "the"]
    one, many = (SentenceEncoder(tiny(), tokenizer(), batch=b)(texts) for b in (1, 5))
    np.testing.assert_allclose(one, many, atol=1e-6)
    assert SentenceEncoder(tiny(), tokenizer())([]).shape == (0, tiny().config.hidden_size)


def test_what_is_too_long_is_cut() -> None:
    encoder = SentenceEncoder(tiny(), tokenizer(), max_length=5)
    full, cut = encoder(["fox dog cat sun and much more", "fox dog cat"])
    assert len(tokenizer()("fox dog cat")["input_ids"]) >= 5
    np.testing.assert_allclose(full, cut, atol=1e-6)


def test_a_folder_of_sentence_transformers_is_obeyed(tmp_path: Path) -> None:
    config = {"Transformer": {"max_seq_length": 12}, "Normalize": {}}
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    old = SentenceEncoder.load(folder(tmp_path / "old", {**config, "Pooling": flags}))
    new = SentenceEncoder.load(folder(tmp_path / "new", {**config, "Pooling": {"pooling_mode": "cls"}}))
    assert (old.pooling, old.max_length) == (new.pooling, new.max_length) == ("cls", 12)
    plain = SentenceEncoder.load(folder(tmp_path / "plain"))
    assert plain.pooling == "mean"
    np.testing.assert_allclose(plain(TEXTS[:2]), SentenceEncoder(tiny(), tokenizer())(TEXTS[:2]), atol=1e-6)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"Transformer": {}, "Pooling": {"pooling_mode": "max"}}, "pools by max"),
        ({"Transformer": {}, "Pooling": {}, "Dense": {}}, "puts Dense behind"),
    ],
)
def test_what_a_folder_asks_for_and_is_not_done_is_said(
    modules: dict[str, dict[str, object]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        SentenceEncoder.load(folder(tmp_path / "model", modules))


def test_settings_that_mean_nothing() -> None:
    with pytest.raises(InputError, match="batch=0"):
        SentenceEncoder(tiny(), tokenizer(), batch=0)
    with pytest.raises(InputError, match="max_length=100000"):
        SentenceEncoder(tiny(), tokenizer(), max_length=100_000)
    with pytest.raises(InputError, match="no folder"):
        SentenceEncoder.load("nowhere")


def test_any_function_is_an_encoder() -> None:
    for rows in ([[3.0, 4.0]], np.array([[3, 4]]), torch.tensor([[3.0, 4.0]], requires_grad=True)):
        assert unit_vectors(lambda texts, rows=rows: rows, ["a"]).tolist() == [
            [pytest.approx(0.6), pytest.approx(0.8)]
        ]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([[0.0, 0.0]], "has no direction"),
        ([[float("nan"), 1.0]], "has no direction"),
        ([[1.0], [2.0]], r"shape \(2, 1\) for 1 texts"),
        ([1.0], r"shape \(1,\)"),
        ("words", "is no array"),
    ],
)
def test_what_an_encoder_may_not_return(returned: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        unit_vectors(lambda texts: returned, ["a text"])


@pytest.mark.packages
def test_minilm_gives_what_sentence_transformers_gives() -> None:
    library = pytest.importorskip("sentence_transformers")
    try:
        path = minilm_folder()
    except PackageUnavailableError as error:
        pytest.skip(f"MiniLM cannot be had here: {error}")
    texts = ["a small dog", "The stock market fell by two percent.", "word " * 400]
    encoder = SentenceEncoder.load("minilm")
    assert (encoder.pooling, encoder.max_length, encoder.width) == ("mean", 256, 384)
    theirs = library.SentenceTransformer(str(path), device="cpu").encode(texts)
    np.testing.assert_allclose(encoder(texts), theirs, atol=2e-6)
