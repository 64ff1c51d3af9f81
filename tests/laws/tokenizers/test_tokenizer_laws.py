"""Laws that every trained vocabulary obeys, whatever its kind."""

from __future__ import annotations

import argparse
import textwrap
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenry.text.kinds import TRAINERS, train
from tokenry.text.training import save_tokenizer
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError, UnknownNameError

CORPUS = tuple(Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, textwrap))
SIZES = {"kl3m": 2048}  # which has 1,655 reserved strings
every_kind = pytest.mark.parametrize("kind", TRAINERS.names())


@cache
def trained(kind: str) -> PreTrainedTokenizerFast:
    return train(kind, CORPUS, SIZES.get(kind, 512))


def normal(kind: str, text: str) -> str:
    """The text itself, or its NFKC where the vocabulary normalises: nothing else may be lost."""
    plain = trained(kind).backend_tokenizer.normalizer is None
    return text if plain else normalizers.NFKC().normalize_str(text)


@every_kind
@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))) | st.text(" \n\tab.1<|>"))
def test_decoding_gives_the_text_back(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == normal(kind, text)


@every_kind
def test_no_text_is_no_tokens(kind: str) -> None:
    assert trained(kind).encode("") == []


@every_kind
@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_every_byte_string_has_an_encoding(kind: str, data: bytes) -> None:
    vocab = ByteVocab.from_tokenizer(trained(kind))
    assert vocab.decode(vocab.encode(data)) == data


@every_kind
def test_the_size_is_exact(kind: str) -> None:
    tokenizer = trained(kind)
    assert len(tokenizer) == SIZES.get(kind, 512)
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


@every_kind
def test_training_again_gives_the_same(kind: str) -> None:
    again = train(kind, iter(CORPUS), SIZES.get(kind, 512))
    assert again.backend_tokenizer.to_str() == trained(kind).backend_tokenizer.to_str()


@every_kind
def test_a_saved_one_is_loaded_as_it_was(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    loaded = AutoTokenizer.from_pretrained(save_tokenizer(tokenizer, tmp_path / kind))
    assert loaded.is_fast
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert (loaded.eos_token, loaded.padding_side) == (tokenizer.eos_token, tokenizer.padding_side)
    text = CORPUS[0] + " naïve\0\u3000ﬁ "
    assert loaded.encode(text) == tokenizer.encode(text)


@every_kind
def test_it_shortens_the_text_it_was_trained_on(kind: str) -> None:
    tokenizer = trained(kind)
    assert len(tokenizer.encode(CORPUS[1])) < 0.75 * len(CORPUS[1])


@every_kind
def test_special_tokens_are_recognised_and_skipped(kind: str) -> None:
    tokenizer = trained(kind)
    ids = tokenizer.encode(f"a{tokenizer.eos_token}b")
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab"


@every_kind
def test_offsets_are_places_in_the_text(kind: str) -> None:
    text = CORPUS[1][:2000]
    spans = trained(kind)(text, return_offsets_mapping=True)["offset_mapping"]
    assert "".join(text[a:b] for a, b in spans) == text


@every_kind
@pytest.mark.parametrize(
    ("texts", "message"),
    [((), "no text"), (("", ""), "no text"), (("a\ud800",), "surrogate"), (("too little",), "more text")],
)
def test_a_corpus_that_will_not_do_is_told(kind: str, texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(kind, texts, 4096)


@every_kind
def test_a_size_below_the_bytes_is_told(kind: str) -> None:
    with pytest.raises(InputError, match="256 bytes"):
        train(kind, CORPUS, 256)


@every_kind
def test_an_unknown_option_is_told(kind: str) -> None:
    with pytest.raises(InputError, match="flavour"):
        train(kind, CORPUS, 4096, flavour="sweet")


def test_an_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'kl3m-char'"):
        train("kl3m-chars", CORPUS, 512)


def test_a_name_of_a_kind_and_an_alias_of_it_are_one() -> None:
    assert TRAINERS.get("kl3m-domain") is TRAINERS.get("kl3m")
